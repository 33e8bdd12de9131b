// The op table: every op once, in the order of the layer's story.
#include <type_traits>

#include "core/implementation.h"

namespace fathom {

const Op& linear_op() noexcept;
const Op& project_op() noexcept;
const Op& compress_op() noexcept;
const Op& index_query_op() noexcept;
const Op& index_op() noexcept;
const Op& select_topk_op() noexcept;
const Op& attend_op() noexcept;
const Op& merge_partials_op() noexcept;
const Op& output_op() noexcept;
const Op& layer_op() noexcept;

namespace {

const auto& table() noexcept {
  static const Op* const kOps[] = {&linear_op(), &project_op(), &compress_op(),        &index_query_op(), &index_op(),
                                   &select_topk_op(), &attend_op(), &merge_partials_op(), &output_op(),      &layer_op()};
  return kOps;
}

}  // namespace

std::span<const Op* const> ops() noexcept { return table(); }

std::span<const OpSpec* const> op_table() noexcept {
  static const auto kSpecs = [] {
    std::array<const OpSpec*, std::extent_v<std::remove_reference_t<decltype(table())>>> specs{};
    for (std::size_t i = 0; i < specs.size(); ++i) specs[i] = table()[i]->spec;
    return specs;
  }();
  return kSpecs;
}

const OpSpec* find_op(std::string_view name) noexcept {
  for (const OpSpec* spec : op_table()) {
    if (name == spec->name) return spec;
  }
  return nullptr;
}

const Op* op_of(const OpSpec& spec) noexcept {
  for (const Op* op : ops()) {
    if (op->spec == &spec) return op;
  }
  return nullptr;
}

}  // namespace fathom
