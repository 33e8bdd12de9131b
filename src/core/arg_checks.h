// Checks that several ops share beyond what ArgSpec says.
#pragma once

#include "core/implementation.h"

namespace fathom {

/// A tile scale must come with e4m3 weights and with no others.
inline Status check_scale(const char* op, const char* name, DType weight_dtype, const TensorView& scale) {
  if (weight_dtype == DType::e4m3 && scale.is_absent()) return Status::invalid("%s: %s is missing, e4m3 weights need it", op, name);
  if (weight_dtype != DType::e4m3 && !scale.is_absent()) {
    return Status::invalid("%s: %s came with %s weights, expected none", op, name, name_of(weight_dtype));
  }
  return {};
}

/// A problem's element type that must be a plain float.
inline Status check_float(const char* op, const char* field, DType dtype) {
  if (dtype == DType::f32 || dtype == DType::bf16) return {};
  return Status::invalid("%s: %s is %s, expected f32 or bf16", op, field, name_of(dtype));
}
/// The same for weights that checkpoints may quantise.
inline Status check_weight_dtype(const char* op, const char* field, DType dtype) {
  if (dtype == DType::e4m3 || dtype == DType::f32 || dtype == DType::bf16) return {};
  return Status::invalid("%s: %s is %s, expected f32, bf16 or e4m3", op, field, name_of(dtype));
}

inline Status check_rope_dim(const char* op, int rope_dim, int dim) {
  if (rope_dim % 2 == 0 && rope_dim <= dim) return {};
  return Status::invalid("%s: rope_dim is %d, expected an even number of at most %d", op, rope_dim, dim);
}

}  // namespace fathom
