// The C interface of page pools.
#include "fathom/pool.h"

#include <utility>
#include <vector>

#include "c_api/handover.h"
#include "c_api/layer_args.h"

using fathom::LayerProblem;
using fathom::PagePool;
using fathom::PagePoolOptions;
using fathom::Result;
using fathom::Status;
using fathom::c_api::copy_items;
using fathom::c_api::is_null;
using fathom::c_api::place;
using fathom::c_api::reported;

struct fathom_pool {
  PagePool pool;
};

namespace {

Result<LayerProblem> layer_problem_of(const char* function, const char* problem) noexcept {
  if (problem == nullptr) return is_null(function, "problem");
  return fathom::problem_from<LayerProblem>(problem);
}

PagePoolOptions to_options(const fathom_pool_options& from) noexcept {
  PagePoolOptions options;
  options.num_layers = from.num_layers;
  options.window_pages = from.window_pages;
  options.entries_pages = from.entries_pages;
  options.index_pages = from.index_pages;
  options.state_pages = from.state_pages;
  options.index_state_pages = from.index_state_pages;
  options.sequence_tokens = from.sequence_tokens;
  options.rollback_tokens = from.rollback_tokens;
  options.page_order_seed = from.page_order_seed;
  options.stream.handle = from.stream;
  return options;
}

fathom_pool_options to_options(const PagePoolOptions& from) noexcept {
  return {from.num_layers,  from.rollback_tokens,   from.window_pages,    from.entries_pages,   from.index_pages,
          from.state_pages, from.index_state_pages, from.sequence_tokens, from.page_order_seed, from.stream.handle};
}

/// Hands out the number of a new sequence.
Status hand_out(const Result<int>& number, std::int32_t* sequence) noexcept {
  if (number.ok()) *sequence = number.value();
  return number.status();
}

}  // namespace

fathom_code fathom_pool_options_for(const char* problem, int64_t sequences, int64_t tokens, int32_t rollback_tokens,
                                    fathom_pool_options* options, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_options_for";
  return reported(kFunction, status, [&]() -> Status {
    if (options == nullptr) return is_null(kFunction, "options");
    FATHOM_ASSIGN(const LayerProblem layer, layer_problem_of(kFunction, problem));
    FATHOM_ASSIGN(const PagePoolOptions needed, fathom::pool_options_for(layer, sequences, tokens, rollback_tokens));
    *options = to_options(needed);
    return {};
  });
}

fathom_code fathom_pool_create(const char* problem, const fathom_pool_options* options, const fathom_device* device,
                               fathom_pool** pool, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_create";
  return reported(kFunction, status, [&]() -> Status {
    if (options == nullptr) return is_null(kFunction, "options");
    if (device == nullptr) return is_null(kFunction, "device");
    if (pool == nullptr) return is_null(kFunction, "pool");
    FATHOM_ASSIGN(const LayerProblem layer, layer_problem_of(kFunction, problem));
    FATHOM_ASSIGN(PagePool made, PagePool::create(layer, to_options(*options), device->device));
    *pool = new fathom_pool{std::move(made)};
    return {};
  });
}
void fathom_pool_destroy(fathom_pool* pool) { delete pool; }

fathom_code fathom_pool_add_sequence(fathom_pool* pool, int32_t* sequence, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_add_sequence";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    if (sequence == nullptr) return is_null(kFunction, "sequence");
    return hand_out(pool->pool.add_sequence(), sequence);
  });
}

fathom_code fathom_pool_remove_sequence(fathom_pool* pool, int32_t sequence, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_remove_sequence";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    return pool->pool.remove_sequence(sequence);
  });
}

fathom_code fathom_pool_length(const fathom_pool* pool, int32_t sequence, int64_t* tokens, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_length";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    if (tokens == nullptr) return is_null(kFunction, "tokens");
    FATHOM_ASSIGN(*tokens, pool->pool.length(sequence));
    return {};
  });
}

int64_t fathom_pool_num_free_pages(const fathom_pool* pool, int32_t cache) {
  return pool == nullptr || cache < 0 || cache >= PagePool::kNumCaches ? -1 : pool->pool.num_free_pages(cache);
}

fathom_code fathom_pool_block_table(const fathom_pool* pool, int32_t sequence, int32_t cache, int32_t* buffer,
                                    int64_t capacity, int64_t* size, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_block_table";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    FATHOM_ASSIGN(const std::vector<std::int32_t> pages, pool->pool.block_table(sequence, cache));
    return copy_items(kFunction, pages.data(), static_cast<std::int64_t>(pages.size()), buffer, capacity, size);
  });
}

fathom_code fathom_pool_begin_step(fathom_pool* pool, const int32_t* sequences, const int64_t* counts,
                                   int32_t num_sequences, fathom_tensor* args, int32_t count, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_begin_step";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    if (num_sequences < 0) return Status::invalid("%s: num_sequences is %d", kFunction, num_sequences);
    if (sequences == nullptr && num_sequences > 0) return is_null(kFunction, "sequences");
    if (counts == nullptr && num_sequences > 0) return is_null(kFunction, "counts");
    // An array that does not fit is refused before the pool changes.
    FATHOM_TRY(fathom::c_api::check_layer_args(kFunction, args, count));
    const auto length = static_cast<std::size_t>(num_sequences);
    FATHOM_ASSIGN(const fathom::Batch batch, pool->pool.begin_step({sequences, length}, {counts, length}));
    return place(kFunction, batch, offsetof(fathom::LayerArgs, batch), args, count);
  });
}

fathom_code fathom_pool_commit(fathom_pool* pool, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_commit";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    return pool->pool.commit();
  });
}
void fathom_pool_abandon(fathom_pool* pool) {
  if (pool != nullptr) pool->pool.abandon();
}

fathom_code fathom_pool_place_caches(const fathom_pool* pool, int32_t layer, fathom_tensor* args, int32_t count,
                                     fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_place_caches";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    const fathom::LayerCaches caches = pool->pool.caches(layer);
    if (caches.window.rank == 0) return Status::invalid("%s: the pool has no layer %d", kFunction, layer);
    return place(kFunction, caches, offsetof(fathom::LayerArgs, caches), args, count);
  });
}

fathom_code fathom_pool_roll_back(fathom_pool* pool, int32_t sequence, int64_t tokens, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_roll_back";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    return pool->pool.roll_back(sequence, tokens);
  });
}

fathom_code fathom_pool_fork(fathom_pool* pool, int32_t sequence, int64_t tokens, int32_t* forked,
                             fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_fork";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    if (forked == nullptr) return is_null(kFunction, "forked");
    return hand_out(pool->pool.fork(sequence, tokens), forked);
  });
}

fathom_code fathom_pool_snapshot(const fathom_pool* pool, int32_t sequence, void* buffer, int64_t capacity,
                                 int64_t* size, fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_snapshot";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    FATHOM_ASSIGN(const std::vector<std::byte> bytes, pool->pool.snapshot(sequence));
    return copy_items(kFunction, bytes.data(), static_cast<std::int64_t>(bytes.size()), static_cast<std::byte*>(buffer),
                      capacity, size);
  });
}

fathom_code fathom_pool_restore(fathom_pool* pool, const void* bytes, int64_t size, int32_t* sequence,
                                fathom_status* status) {
  constexpr const char* kFunction = "fathom_pool_restore";
  return reported(kFunction, status, [&]() -> Status {
    if (pool == nullptr) return is_null(kFunction, "pool");
    if (sequence == nullptr) return is_null(kFunction, "sequence");
    if (size < 0) return Status::invalid("%s: size is %lld", kFunction, static_cast<long long>(size));
    if (bytes == nullptr && size > 0) return is_null(kFunction, "bytes");
    return hand_out(pool->pool.restore({static_cast<const std::byte*>(bytes), static_cast<std::size_t>(size)}),
                    sequence);
  });
}
