// Warpgroup products of sm_90a by their number of columns: a 64 x 16 operand from registers or from shared memory,
// times a 16 x kColumns one from shared memory, both bf16 and K-major, added to f32 sums. Layouts as in wgmma.cuh.
//
// A from registers: with g = lane / 4 and t = lane % 4 a lane of warp w holds rows 16 w + g (a0, a2) and g + 8 more
// (a1, a3), columns 2t, 2t+1 (a0, a1) and 2t+8, 2t+9 (a2, a3): mma.cuh's operand for each warp.
#pragma once

#include "device/wgmma.cuh"

namespace fathom::wgmma {

// The sums as operands %0 and on, and as arguments.
#define FATHOM_SUMS_32_TEXT "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FATHOM_SUMS_64_TEXT \
  FATHOM_SUMS_32_TEXT ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FATHOM_SUMS_128_TEXT                                                                          \
  FATHOM_SUMS_64_TEXT                                                                                 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, " \
  "%51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FATHOM_EIGHT_SUMS(c, i)                                                                               \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
      "+f"(c[i + 7])
#define FATHOM_SUMS_32(c) FATHOM_EIGHT_SUMS(c, 0), FATHOM_EIGHT_SUMS(c, 8)
#define FATHOM_SUMS_64(c) FATHOM_SUMS_32(c), FATHOM_EIGHT_SUMS(c, 16), FATHOM_EIGHT_SUMS(c, 24)
#define FATHOM_SUMS_128(c)                                                                         \
  FATHOM_SUMS_64(c), FATHOM_EIGHT_SUMS(c, 32), FATHOM_EIGHT_SUMS(c, 40), FATHOM_EIGHT_SUMS(c, 48), \
      FATHOM_EIGHT_SUMS(c, 56)

template <int kColumns>
struct Product;

// a0 and on: the numbers of the operands behind the sums.
#define FATHOM_PRODUCT(columns, count, a0, a1, a2, a3, a4)                                                        \
  template <>                                                                                                     \
  struct Product<columns> {                                                                                       \
    static __device__ __forceinline__ void add(float (&c)[count], const std::uint32_t (&a)[4], std::uint64_t b) { \
      asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" #columns               \
                   "k16.f32.bf16.bf16 {" FATHOM_SUMS_##columns##_TEXT "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3   \
                                                                      "}, %" #a4 ", p, 1, 1, 0;}"                 \
                   : FATHOM_SUMS_##columns(c)                                                                     \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                         \
    }                                                                                                             \
    static __device__ __forceinline__ void add(float (&c)[count], std::uint64_t a, std::uint64_t b) {             \
      asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" #columns               \
                   "k16.f32.bf16.bf16 {" FATHOM_SUMS_##columns##_TEXT "}, %" #a0 ", %" #a1 ", p, 1, 1, 0, 0;}"    \
                   : FATHOM_SUMS_##columns(c)                                                                     \
                   : "l"(a), "l"(b));                                                                             \
    }                                                                                                             \
  };
FATHOM_PRODUCT(32, 16, 16, 17, 18, 19, 20)
FATHOM_PRODUCT(64, 32, 32, 33, 34, 35, 36)
FATHOM_PRODUCT(128, 64, 64, 65, 66, 67, 68)
#undef FATHOM_PRODUCT

/// The same with f16 operands, the first from registers; the sums are added to where `accumulate` is not 0.
template <int kColumns>
struct ProductF16;

#define FATHOM_PRODUCT(columns, count, a0, a1, a2, a3, a4, a5)                                                       \
  template <>                                                                                                        \
  struct ProductF16<columns> {                                                                                       \
    static __device__ __forceinline__ void multiply(float (&c)[count], const std::uint32_t (&a)[4], std::uint64_t b, \
                                                    int accumulate) {                                                \
      asm volatile("{.reg .pred p; setp.ne.b32 p, %" #a5 ", 0; wgmma.mma_async.sync.aligned.m64n" #columns           \
                   "k16.f32.f16.f16 {" FATHOM_SUMS_##columns##_TEXT "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3        \
                                                                    "}, %" #a4 ", p, 1, 1, 0;}"                      \
                   : FATHOM_SUMS_##columns(c)                                                                        \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                           \
    }                                                                                                                \
  };
FATHOM_PRODUCT(32, 16, 16, 17, 18, 19, 20, 21)
FATHOM_PRODUCT(64, 32, 32, 33, 34, 35, 36, 37)
#undef FATHOM_PRODUCT
#undef FATHOM_SUMS_128
#undef FATHOM_SUMS_64
#undef FATHOM_SUMS_32
#undef FATHOM_EIGHT_SUMS
#undef FATHOM_SUMS_128_TEXT
#undef FATHOM_SUMS_64_TEXT
#undef FATHOM_SUMS_32_TEXT

}  // namespace fathom::wgmma
