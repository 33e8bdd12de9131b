// What the format of the index keys says of the queries that meet them.
#pragma once

#include "fathom/index.h"

namespace fathom {

inline Status check_key_format(const char* op, CacheFormat format, int dim) noexcept {
  if (format != CacheFormat::index_f32 && format != CacheFormat::index_e4m3_f32 && format != CacheFormat::index_e2m1_ue8m0) {
    return Status::invalid("%s: format is %s, expected index_f32, index_e4m3_f32 or index_e2m1_ue8m0", op, name_of(format));
  }
  return row_layout(format, dim).status();
}

/// Queries and their scales as the key format wants them.
inline Status check_query(const char* op, CacheFormat format, const TensorView& q, const TensorView& q_scale) noexcept {
  const DType expected = index_query_dtype(format);
  if (q.dtype != expected) {
    return Status::invalid("%s: q has dtype %s, expected %s for %s keys", op, name_of(q.dtype), name_of(expected), name_of(format));
  }
  if (expected == DType::e2m1x2 && q_scale.is_absent()) return Status::invalid("%s: q_scale is missing, e2m1x2 queries need it", op);
  if (expected != DType::e2m1x2 && !q_scale.is_absent()) {
    return Status::invalid("%s: q_scale came with %s queries, expected none", op, name_of(expected));
  }
  if (expected == DType::e2m1x2 && (q.strides[0] % 2 != 0 || q.strides[1] % 2 != 0)) {
    return Status::invalid("%s: q has strides %lld and %lld, expected even ones: two elements share a byte", op,
                           static_cast<long long>(q.strides[0]), static_cast<long long>(q.strides[1]));
  }
  return {};
}

}  // namespace fathom
