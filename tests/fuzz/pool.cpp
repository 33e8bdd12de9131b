// Programs over a page pool: every byte string is one. After each call the pool must account for all of its pages.
#include <set>
#include <vector>

#include "fathom/pool.h"
#include "fuzz/targets.h"

namespace fathom::fuzz {
namespace {

LayerProblem small_problem(std::uint8_t kind) {
  LayerProblem problem;
  problem.num_tokens = 64;
  problem.num_seqs = 4;
  problem.head_dim = problem.rope_dim = 2;
  problem.index_dim = 2;
  problem.window = 1 + kind / 4 % 7;
  problem.compress_ratio = kind % 4 == 0 ? 0 : kind % 4 == 1 ? 128 : 4;
  problem.max_entries = 64;
  problem.window_format = problem.entries_format = CacheFormat::kv_f32;
  problem.index_format = CacheFormat::index_f32;
  problem.window_page_size = 1 + kind / 32;
  problem.entries_page_size = 2;
  problem.index_page_size = 3;
  problem.state_page_size = 4;
  problem.index_state_page_size = 1;
  return problem;
}

struct Seen {
  std::vector<std::int64_t> numbers;
  bool operator==(const Seen&) const = default;
};
constexpr int kMostSequences = 12;

Seen seen(const PagePool& pool) {
  Seen state;
  for (int cache = 0; cache < PagePool::kNumCaches; ++cache) state.numbers.push_back(pool.num_free_pages(cache));
  for (int s = 0; s < kMostSequences; ++s) {
    const auto length = pool.length(s);
    state.numbers.push_back(length.ok() ? length.value() : -1);
  }
  return state;
}

/// Slots of a step lie inside their cache, and no two tokens write one.
void check_slots(const TensorView& slots, const TensorView& cache, std::int64_t page_size) {
  if (slots.is_absent()) return;
  std::set<std::int64_t> written;
  for (std::int64_t t = 0; t < slots.shape[0]; ++t) {
    const std::int64_t slot = slots.at<std::int64_t>(t);
    require(slot >= -1 && slot < cache.shape[0] * page_size, "a slot outside its cache");
    require(slot < 0 || written.insert(slot).second, "two tokens write one slot");
  }
}

void step(PagePool& pool, Reader& reader) {
  std::vector<int> sequences;
  std::vector<std::int64_t> counts;
  for (int i = reader.byte() % 4; i >= 0; --i) {
    sequences.push_back(static_cast<int>(reader.byte() % kMostSequences) - (reader.byte() == 255 ? 300 : 0));
    counts.push_back(reader.number());
  }
  const Seen before = seen(pool);
  const auto batch = pool.begin_step(sequences, counts);
  if (!batch.ok()) return require(seen(pool) == before, "a refused step changed the pool");
  const LayerProblem& problem = pool.problem();
  const LayerCaches caches = pool.caches(0);
  check_slots(batch->window_slots, caches.window, problem.window_page_size);
  check_slots(batch->entry_slots, caches.entries, problem.entries_page_size);
  check_slots(batch->index_slots, caches.index_keys, problem.index_page_size);
  check_slots(batch->state_slots, caches.state, problem.state_page_size);
  check_slots(batch->index_state_slots, caches.index_state, problem.index_state_page_size);
  if (reader.byte() % 4 == 0) {
    pool.abandon();
    require(seen(pool) == before, "an abandoned step left a trace");
  } else {
    require(pool.commit().ok(), "a step cannot be committed");
  }
}

/// A snapshot goes back, whole or with bytes changed.
void restore(PagePool& pool, Reader& reader, int sequence) {
  const auto snapshot = pool.snapshot(sequence);
  if (!snapshot.ok()) return;
  std::vector<std::byte> bytes = snapshot.value();
  for (int i = reader.byte() % 4; i > 0; --i) {
    const auto at = reader.take<std::uint16_t>();
    if (at < bytes.size()) bytes[at] = static_cast<std::byte>(reader.byte());
  }
  if (reader.byte() % 8 == 0) bytes.resize(reader.take<std::uint16_t>() % 4096);
  const Seen before = seen(pool);
  if (!pool.restore(bytes).ok()) require(seen(pool) == before, "a refused snapshot changed the pool");
}

}  // namespace

void pool(Input input) {
  Reader reader(input);
  const LayerProblem problem = small_problem(reader.byte());
  PagePoolOptions options;
  options.rollback_tokens = reader.byte() % 9;
  options.page_order_seed = reader.byte();
  const bool entries = problem.compress_ratio > 0, overlap = problem.compress_ratio == 4;
  options.window_pages = reader.byte() % 32;
  if (entries) options.entries_pages = options.state_pages = reader.byte() % 32;
  if (overlap) options.index_pages = options.index_state_pages = reader.byte() % 64;
  auto created = PagePool::create(problem, options);
  require(created.ok(), std::string("a small pool is refused: ") + created.status().text());
  PagePool& pool = created.value();
  const Seen empty = seen(pool);
  for (int calls = 0; calls < 400 && !reader.empty(); ++calls) {
    const std::uint8_t call = reader.byte();
    const int sequence = call >> 4;
    switch (call & 15) {
      case 0:
        if (!pool.length(kMostSequences - 1).ok()) (void)pool.add_sequence();
        break;
      case 1:
        (void)pool.remove_sequence(sequence);
        break;
      case 2:
        (void)pool.roll_back(sequence, reader.number());
        break;
      case 3:
        if (!pool.length(kMostSequences - 1).ok()) (void)pool.fork(sequence, reader.number());
        break;
      case 4:
        if (!pool.length(kMostSequences - 1).ok()) restore(pool, reader, sequence);
        break;
      case 5: {
        const Seen before = seen(pool);
        const Input bytes = reader.bytes(reader.byte());
        if (!pool.length(kMostSequences - 1).ok() && !pool.restore(std::as_bytes(bytes)).ok()) {
          require(seen(pool) == before, "a refused snapshot changed the pool");
        }
        break;
      }
      case 6:
        (void)pool.commit();
        break;
      default:
        step(pool, reader);
    }
  }
  for (int s = 0; s < kMostSequences; ++s) (void)pool.remove_sequence(s);
  require(seen(pool) == empty, "pages are missing after all sequences have gone");
}

}  // namespace fathom::fuzz
