// The loops are written by hand where x86 offers wider vectors than the compiler's default target: a roof measured with
// narrow ones would flatter every kernel.
#include "harness/roof.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fathom::harness {
namespace {

constexpr std::int64_t kRounds = 2'000'000;

/// Seconds that body(thread) takes on all threads at once.
double timed(int num_threads, const std::function<void(int)>& body) {
  const auto start = std::chrono::steady_clock::now();
  {
    // They join where a further one cannot be made, too.
    std::vector<std::jthread> threads;
    for (int i = 1; i < num_threads; ++i) threads.emplace_back(body, i);
    body(0);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// What the loops compute goes here, so that no compiler can leave them out; each thread has its own.
thread_local volatile float observed;

// Each loop keeps as many chains as hide the latency of a multiply-add (4 cycles, two a cycle) and returns its
// operations.
double scalar_loop() {
  float sums[16] = {};
  for (std::int64_t round = 0; round < kRounds; ++round) {
    for (float& sum : sums) sum = sum * 0.999f + 0.5f;
  }
  for (const float sum : sums) observed = sum;
  return 2.0 * 16 * kRounds;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) double avx2_loop() {
  constexpr int kChains = 12;
  __m256 sums[kChains];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  const __m256 factor = _mm256_set1_ps(0.999f), addend = _mm256_set1_ps(0.5f);
  for (std::int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], factor, addend);
  }
  for (const __m256& sum : sums) observed = _mm256_cvtss_f32(sum);
  return 2.0 * 8 * kChains * kRounds;
}

__attribute__((target("avx512f"))) double avx512_loop() {
  constexpr int kChains = 16;
  __m512 sums[kChains];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512 factor = _mm512_set1_ps(0.999f), addend = _mm512_set1_ps(0.5f);
  for (std::int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], factor, addend);
  }
  for (const __m512& sum : sums) observed = _mm512_cvtss_f32(sum);
  return 2.0 * 16 * kChains * kRounds;
}
#endif

double widest_loop() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return avx512_loop();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_loop();
#endif
  return scalar_loop();
}

}  // namespace

std::int64_t cache_bytes() noexcept {
  constexpr std::int64_t kFallback = std::int64_t{32} << 20;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  if (const long bytes = ::sysconf(_SC_LEVEL3_CACHE_SIZE); bytes > 0) return bytes;
#endif
  return kFallback;
}

RoofMeter::RoofMeter(int num_threads)
    : num_threads_(std::max(num_threads, 1)),
      buffer_(static_cast<std::size_t>(std::clamp<std::int64_t>(4 * cache_bytes(), 64 << 20, 1 << 30)) / 8, 1) {}

double RoofMeter::read_bytes_per_second() {
  const std::size_t share = buffer_.size() / static_cast<std::size_t>(num_threads_);
  const double seconds = timed(num_threads_, [&](int thread) {
    const std::uint64_t* words = buffer_.data() + share * static_cast<std::size_t>(thread);
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i + 8 <= share; i += 8) {
      for (std::size_t k = 0; k < 8; ++k) sums[k] += words[i + k];
    }
    std::uint64_t sum = 0;
    for (const std::uint64_t part : sums) sum += part;
    observed = static_cast<float>(sum);
  });
  return static_cast<double>(share * static_cast<std::size_t>(num_threads_)) * 8 / seconds;
}

double RoofMeter::operations_per_second() {
  double operations = 0;
  const double seconds = timed(num_threads_, [&](int thread) {
    const double own = widest_loop();
    if (thread == 0) operations = own * num_threads_;
  });
  return operations / seconds;
}

}  // namespace fathom::harness
