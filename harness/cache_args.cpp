// The table of cache arguments. A new op with a cache adds its line here.
#include "harness/cache_args.h"

#include <cstring>

#include "fathom/attend.h"
#include "fathom/compress.h"
#include "fathom/index.h"
#include "fathom/layer.h"
#include "fathom/project.h"

namespace fathom::harness {
namespace {

struct Rows {
  CacheFormat format;
  std::int64_t dim;
  std::int64_t page_size;
};

struct CacheArg {
  const char* op;
  const char* name;
  Rows (*rows)(const OpCase& built);
};

template <class Problem>
const Problem& of(const OpCase& built) noexcept {
  return built.problem_as<Problem>();
}
/// Halves of a layer's state rows: overlapping groups keep two.
std::int64_t halves(const LayerProblem& problem) noexcept { return problem.compress_ratio == 4 ? 2 : 1; }

constexpr CacheArg kCacheArgs[] = {
    {"project", "window_cache",
     [](const OpCase& c) -> Rows {
       const auto& p = of<ProjectProblem>(c);
       return {p.window_format, p.head_dim, p.window_page_size};
     }},
    {"compress", "state_cache",
     [](const OpCase& c) -> Rows {
       const auto& p = of<CompressProblem>(c);
       return {CacheFormat::state_f32, 2 * p.width(), p.state_page_size};
     }},
    {"compress", "cache",
     [](const OpCase& c) -> Rows {
       const auto& p = of<CompressProblem>(c);
       return {p.format, p.dim, p.page_size};
     }},
    {"index", "index_cache",
     [](const OpCase& c) -> Rows {
       const auto& p = of<IndexProblem>(c);
       return {p.format, p.index_dim, p.page_size};
     }},
    {"attend", "window.cache",
     [](const OpCase& c) -> Rows {
       const auto& p = of<AttendProblem>(c);
       return {p.window_format, p.head_dim, p.window_page_size};
     }},
    {"attend", "entries.cache",
     [](const OpCase& c) -> Rows {
       const auto& p = of<AttendProblem>(c);
       return {p.entries_format, p.head_dim, p.entries_page_size};
     }},
    {"layer", "window",
     [](const OpCase& c) -> Rows {
       const auto& p = of<LayerProblem>(c);
       return {p.window_format, p.head_dim, p.window_page_size};
     }},
    {"layer", "entries",
     [](const OpCase& c) -> Rows {
       const auto& p = of<LayerProblem>(c);
       return {p.entries_format, p.head_dim, p.entries_page_size};
     }},
    {"layer", "index_keys",
     [](const OpCase& c) -> Rows {
       const auto& p = of<LayerProblem>(c);
       return {p.index_format, p.index_dim, p.index_page_size};
     }},
    {"layer", "state",
     [](const OpCase& c) -> Rows {
       const auto& p = of<LayerProblem>(c);
       return {CacheFormat::state_f32, 2 * halves(p) * p.head_dim, p.state_page_size};
     }},
    {"layer", "index_state",
     [](const OpCase& c) -> Rows {
       const auto& p = of<LayerProblem>(c);
       return {CacheFormat::state_f32, 2 * halves(p) * p.index_dim, p.index_state_page_size};
     }},
};

}  // namespace

std::optional<PagedCacheView> cache_of(const OpCase& built, std::size_t arg, const TensorView& view) noexcept {
  const char* op = built.op->name;
  const char* name = built.op->args[arg].name;
  if (view.is_absent()) return std::nullopt;
  for (const CacheArg& cache_arg : kCacheArgs) {
    if (std::strcmp(cache_arg.op, op) != 0 || std::strcmp(cache_arg.name, name) != 0) continue;
    const Rows rows = cache_arg.rows(built);
    const auto layout = row_layout(rows.format, static_cast<int>(rows.dim));
    if (!layout.ok()) return std::nullopt;
    const auto cache = paged_cache(op, name, view, layout.value(), rows.page_size);
    if (!cache.ok()) return std::nullopt;
    return cache.value();
  }
  return std::nullopt;
}

}  // namespace fathom::harness
