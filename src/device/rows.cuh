// Rows on the device: elements of f32 and bf16 views, cached rows of any format, and the block-wide sums of norms.
// The rules themselves (codecs, scales) are the host's constexpr functions; what is here only shares work among threads.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cache/number_codecs.h"
#include "fathom/cache.h"
#include "fathom/core/tensor.h"

namespace fathom {

constexpr float kInfinity = __builtin_huge_valf();
constexpr unsigned kAllLanes = 0xffffffffu;

/// Blocks that `units` units of work take, `per_block` each.
constexpr unsigned blocks_for(std::int64_t units, std::int64_t per_block) {
  return static_cast<unsigned>((units + per_block - 1) / per_block);
}

__device__ inline float load_element(const TensorView& tensor, std::int64_t at) {
  return tensor.dtype == DType::f32 ? static_cast<const float*>(tensor.data)[at] : to_f32(static_cast<const bf16*>(tensor.data)[at]);
}
__device__ inline void store_element(const TensorView& tensor, std::int64_t at, float value) {
  if (tensor.dtype == DType::f32) {
    static_cast<float*>(tensor.data)[at] = value;
  } else {
    static_cast<bf16*>(tensor.data)[at] = to_bf16(value);
  }
}
/// bf(.) of the specification where the activations are bf16.
__device__ inline float rounded(float value, DType activation) { return activation == DType::bf16 ? round_bf16(value) : value; }

/// An E2M1 code's value without a table.
__device__ inline float decode_e2m1_bits(std::uint32_t code) {
  const std::uint32_t magnitude = code & 7u;
  // Exponent field 0: 0 or 0.5; else (1 + m/2) 2^(e-1).
  const std::uint32_t bits = magnitude < 2 ? (magnitude == 0 ? 0u : 0x3f000000u) : ((magnitude << 22) + (126u << 23));
  return __uint_as_float(bits | (code & 8u) << 28);
}

/// Element c of a cached row, as decode_row gives it (src/cache/row_codec.h).
__device__ inline float decode_element(const RowLayout& layout, const std::byte* row, const std::byte* footer, int c) {
  for (int i = 0; i < layout.num_segments; ++i) {
    const RowSegment& segment = layout.segments[i];
    const bool is_scales = segment.dtype == DType::ue8m0 || segment.dtype == DType::u8 || (i > 0 && layout.segments[i - 1].scale_block > 0);
    if (is_scales || c < segment.first || c >= segment.first + segment.count) continue;
    const int k = c - segment.first;
    const std::byte* in = (segment.in_footer ? footer : row) + segment.offset;
    if (segment.dtype == DType::f32) return reinterpret_cast<const float*>(in)[k];
    if (segment.dtype == DType::bf16) return to_f32(reinterpret_cast<const bf16*>(in)[k]);
    const RowSegment& scales = layout.segments[i + 1];
    const std::byte* scale_bytes = (scales.in_footer ? footer : row) + scales.offset;
    const int g = k / segment.scale_block;
    const float scale = scales.dtype == DType::ue8m0 ? decode_ue8m0(static_cast<std::uint8_t>(scale_bytes[g]))
                                                     : reinterpret_cast<const float*>(scale_bytes)[g];
    const auto* codes = reinterpret_cast<const std::uint8_t*>(in);
    const float value = segment.dtype == DType::e4m3 ? decode_e4m3(codes[k]) : decode_e2m1_bits(codes[k / 2] >> (k % 2 * 4));
    return value * scale;
  }
  return 0;
}

/// Writes `values` (shared or global memory, complete before the call) as one cached row; all threads of the block take
/// part, one for each scale block or run of plain elements. Byte for byte what encode_row writes.
__device__ inline void encode_row_by_block(const RowLayout& layout, const float* values, std::byte* row, std::byte* footer) {
  for (int i = 0; i < layout.num_segments; ++i) {
    const RowSegment& segment = layout.segments[i];
    std::byte* out = (segment.in_footer ? footer : row) + segment.offset;
    const float* in = values + segment.first;
    if (segment.scale_block > 0) {
      const RowSegment& scales = layout.segments[++i];
      std::byte* scale_bytes = (scales.in_footer ? footer : row) + scales.offset;
      const int block = segment.scale_block;
      // A warp for each scale block: the largest magnitude first, then codes.
      const int lane = threadIdx.x % 32, warps = (blockDim.x + 31) / 32;
      for (int g = threadIdx.x / 32; g < segment.count / block; g += warps) {
        float largest = 0;
        bool has_nan = false;
        for (int c = lane; c < block; c += 32) {
          largest = fmaxf(largest, largest_magnitude(in + g * block + c, 1));
          has_nan |= in[g * block + c] != in[g * block + c];
        }
        for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, d));
        has_nan = __any_sync(kAllLanes, has_nan);
        // Not bytes_of: its table of types lies on the host.
        auto* codes = reinterpret_cast<std::uint8_t*>(out) + (segment.dtype == DType::e4m3 ? g * block : g * block / 2);
        std::uint8_t scale;
        if (segment.dtype == DType::e4m3) {
          const int exponent = q8_exponent(largest);
          const float inverse = exp2_of(-exponent);
          for (int c = lane; c < block; c += 32) codes[c] = encode_e4m3(round_bf16(in[g * block + c]) * inverse);
          scale = static_cast<std::uint8_t>(exponent + 127);
        } else {
          const int exponent = q4_exponent(largest);
          const float inverse = exp2_of(-exponent);
          for (int c = 2 * lane; c < block; c += 64) {
            codes[c / 2] = static_cast<std::uint8_t>(encode_e2m1(round_bf16(in[g * block + c]) * inverse) |
                                                     encode_e2m1(round_bf16(in[g * block + c + 1]) * inverse) << 4);
          }
          scale = has_nan ? kUe8m0Nan : static_cast<std::uint8_t>(exponent + 127);
        }
        if (lane == 0) {
          if (scales.dtype == DType::ue8m0) {
            scale_bytes[g] = static_cast<std::byte>(scale);
          } else {
            reinterpret_cast<float*>(scale_bytes)[g] = decode_ue8m0(scale);
          }
        }
      }
    } else if (segment.dtype == DType::f32) {
      for (int c = threadIdx.x; c < segment.count; c += blockDim.x) reinterpret_cast<float*>(out)[c] = in[c];
    } else if (segment.dtype == DType::bf16) {
      for (int c = threadIdx.x; c < segment.count; c += blockDim.x) reinterpret_cast<bf16*>(out)[c] = to_bf16(in[c]);
    } else {
      for (int c = threadIdx.x; c < segment.count; c += blockDim.x) out[c] = std::byte{0};
    }
  }
}

__device__ inline float warp_sum(float value) {
  for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(kAllLanes, value, d);
  return value;
}

/// Sum over the block's threads, the same in all of them and the same every time. `partials` is shared memory for 32
/// floats that no other call uses at the time.
__device__ inline float block_sum(float value, float* partials) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned i = 0; i < (blockDim.x + 31) / 32; ++i) sum += partials[i];
  __syncthreads();
  return sum;
}

}  // namespace fathom
