// CPU words: the few vector loops that the cpu implementations stand on, dispatched at run time to the best instruction
// set of the machine. Every output element is one chain of fused multiply-adds over its own operands, reduced the same
// way, so a result never depends on which block of rows it was computed with.
#pragma once

#include <cstdint>
#include <vector>

namespace fathom::simd {

/// out[i * out_stride + j] = sum over k < count of a[i * a_stride + k] * b[j * b_stride + k], for i < a_rows, j < b_rows.
void dot_rows(const float* a, std::int64_t a_stride, int a_rows, const float* b, std::int64_t b_stride, int b_rows,
              std::int64_t count, float* out, std::int64_t out_stride);

/// sums[i * sums_stride + c] += sum over j < rows, in order, of weights[i * weights_stride + j] * v[j * v_stride + c],
/// for i < heads, c < dim.
void accumulate_rows(const float* weights, std::int64_t weights_stride, int heads, const float* v, std::int64_t v_stride,
                     int rows, std::int64_t dim, float* sums, std::int64_t sums_stride);

/// values[c] *= factor.
void scale_row(float* values, std::int64_t count, float factor);

/// The sum of squares of a row.
float sum_of_squares(const float* values, std::int64_t count);

/// Instruction set that dispatch chose ("AVX3", "AVX2", ...).
const char* target_name();

/// Instruction sets that were compiled in and that this machine has, best first.
std::vector<const char*> target_names();
/// From here on dispatch takes `name`, one of target_names(), in the whole process; null gives the choice back to the machine.
/// For tests, while nothing else runs. False, and nothing changes, for a name that is not there.
bool force_target(const char* name);

}  // namespace fathom::simd
