// The loops are written by hand where x86 offers wider vectors than the compiler's default target: a roof measured with
// narrow ones would flatter every kernel.
#include "harness/roof.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <iterator>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fathom::harness {
namespace {

constexpr std::int64_t kRounds = 2'000'000;

/// Seconds that body(thread) takes on all threads at once: from when the first begins to when the last ends. Making the
/// threads does not count, it would lower the roof.
double timed(int num_threads, const std::function<void(int)>& body) {
  using Clock = std::chrono::steady_clock;
  std::vector<Clock::time_point> begun(static_cast<std::size_t>(num_threads)), ended(begun.size());
  std::mutex gate;
  const auto run = [&](int thread) {
    { const std::lock_guard wait(gate); }
    const auto i = static_cast<std::size_t>(thread);
    begun[i] = Clock::now();
    body(thread);
    ended[i] = Clock::now();
  };
  {
    // They join where a further one cannot be made, too.
    std::vector<std::jthread> threads;
    {
      const std::lock_guard closed(gate);
      for (int i = 1; i < num_threads; ++i) threads.emplace_back(run, i);
    }
    run(0);
  }
  return std::chrono::duration<double>(*std::max_element(ended.begin(), ended.end()) - *std::min_element(begun.begin(), begun.end())).count();
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

/// 0x3f3f is 0.75 in bf16; its products stay finite.
__attribute__((target("avx512f,avx512bf16"))) double avx512bf16_loop() {
  constexpr int kChains = 16;
  __m512 sums[kChains];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  __m512bh pairs;
  std::memset(&pairs, 0x3f, sizeof(pairs));
  for (std::int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], pairs, pairs);
  }
  for (const __m512& sum : sums) observed = _mm512_cvtss_f32(sum);
  return 2.0 * 32 * kChains * kRounds;
}

/// Four tiles of sums, as a product's inner loop has them. Whoever may make a plan of "cpu:amx" may use tiles.
__attribute__((target("amx-tile,amx-bf16"))) double amx_loop() {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  constexpr std::int64_t kTileRounds = kRounds / 16;
  alignas(64) unsigned char tile[1024];
  std::memset(tile, 0x3f, sizeof(tile));
  __asm__ volatile("" : : "r"(&config), "r"(tile) : "memory");
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, tile, 64);
  _tile_loadd(5, tile, 64);
  _tile_loadd(6, tile, 64);
  _tile_loadd(7, tile, 64);
  for (std::int64_t round = 0; round < kTileRounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, tile, 64);
  _tile_release();
  observed = tile[3];
  return 2.0 * 16 * 16 * 32 * 4 * kTileRounds;
}
#endif

double widest_loop() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return avx512_loop();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_loop();
#endif
  return scalar_loop();
}

double loop_of(Arithmetic arithmetic) {
#if defined(__x86_64__)
  switch (arithmetic) {
    case Arithmetic::avx2: return avx2_loop();
    case Arithmetic::avx512: return avx512_loop();
    case Arithmetic::avx512bf16: return avx512bf16_loop();
    case Arithmetic::amx: return amx_loop();
    case Arithmetic::widest: break;
  }
#endif
  return arithmetic == Arithmetic::widest ? widest_loop() : 0;
}

struct Named {
  const char *implementation, *words;
};
/// In the order of Arithmetic.
constexpr Named kNames[] = {{"cpu", "f32 multiply-adds"},
                            {"cpu:avx2", "f32 multiply-adds of AVX2"},
                            {"cpu:avx512", "f32 multiply-adds of AVX-512"},
                            {"cpu:avx512bf16", "bf16 dot products of AVX-512"},
                            {"cpu:amx", "bf16 products of AMX tiles"}};

}  // namespace

const char* words_of(Arithmetic arithmetic) noexcept { return kNames[static_cast<int>(arithmetic)].words; }

Arithmetic arithmetic_of(std::string_view implementation) noexcept {
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    if (implementation == kNames[i].implementation) return static_cast<Arithmetic>(i);
  }
  return Arithmetic::widest;
}

Arithmetic arithmetic_of(const AnyPlan& plan) {
  Arithmetic best = arithmetic_of(std::string_view(plan.implementation()));
  for (const AnyPlan& part : plan.parts()) best = std::max(best, arithmetic_of(part));
  return best;
}

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

double RoofMeter::operations_per_second(Arithmetic arithmetic) {
  double operations = 0;
  const double seconds = timed(num_threads_, [&](int thread) {
    const double own = loop_of(arithmetic);
    if (thread == 0) operations = own * num_threads_;
  });
  return operations / seconds;
}

}  // namespace fathom::harness
