#include "core/shape_text.h"

#include <cctype>
#include <cstring>

namespace fathom {
namespace {

using detail::PlanData;
using detail::ResolvedExtent;

std::int64_t digits(std::string_view text, std::size_t& at) {
  std::int64_t value = 0;
  while (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]))) value = value * 10 + (text[at++] - '0');
  return value;
}

std::string_view word_at(std::string_view text, std::size_t& at) {
  const std::size_t begin = at;
  while (at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '_')) ++at;
  return text.substr(begin, at - begin);
}

/// The group number of a shared extent, by name.
int group_of(std::vector<std::string>& groups, std::string_view name) {
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (groups[i] == name) return static_cast<int>(i);
  }
  groups.emplace_back(name);
  return static_cast<int>(groups.size()) - 1;
}

/// One extent, read: factor {*factor} [/n].
struct ExtentText {
  std::int64_t number = 1;  ///< its numbers multiplied
  std::vector<std::string_view> words;
  std::int64_t divisor = 1;

  std::int64_t of(std::int64_t product) const noexcept { return (product + divisor - 1) / divisor; }
};

Result<ExtentText> read_extent(std::string_view text) {
  ExtentText extent;
  std::size_t at = 0;
  const auto refuse = [&] {
    return Status::invalid("shape: \"%s\" is no extent, expected factor*factor/n", std::string(text.substr(0, 64)).c_str());
  };
  do {
    if (at > 0) ++at;  // past '*'
    if (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]))) {
      extent.number *= digits(text, at);
    } else {
      extent.words.push_back(word_at(text, at));
      if (extent.words.back().empty()) return refuse();
    }
  } while (at < text.size() && text[at] == '*');
  if (at < text.size() && text[at] == '/') extent.divisor = digits(text, ++at);
  if (at < text.size() || extent.divisor < 1) return refuse();
  return extent;
}

Result<ResolvedExtent> resolve_extent(std::string_view text, const PlanData& plan, std::vector<std::string>& groups) {
  const ProblemSpec& problem = *plan.op->spec->problem;
  FATHOM_ASSIGN(const ExtentText read, read_extent(text));
  ResolvedExtent extent;
  extent.value = read.number;
  for (const std::string_view word : read.words) {
    const ProblemField* field = find_field(problem, word);
    if (field == nullptr || field->kind == FieldKind::capacity) {
      extent.kind = field == nullptr ? ResolvedExtent::Kind::free : ResolvedExtent::Kind::capacity;
      extent.group = group_of(groups, word);
    }
    if (field != nullptr) extent.value *= problem_integer(problem, plan.problem.data(), word);
  }
  extent.value = read.of(extent.value);
  return extent;
}

/// Calls visit(dtype) for each type that "f32|$field" allows.
template <class Visit>
void for_each_dtype(std::string_view text, const ProblemSpec& problem, const void* values, Visit&& visit) {
  while (!text.empty()) {
    const std::size_t bar = std::min(text.find('|'), text.size());
    const std::string_view word = text.substr(0, bar);
    text.remove_prefix(std::min(bar + 1, text.size()));
    if (!word.starts_with('$')) {
      if (const auto dtype = dtype_from(word)) visit(*dtype);
    } else if (const ProblemField* field = find_field(problem, word.substr(1))) {
      const auto value = static_cast<const std::uint8_t*>(values)[field->offset];
      visit(field->kind == FieldKind::numerics ? activation_dtype(static_cast<Numerics>(value)) : static_cast<DType>(value));
    }
  }
}

std::vector<std::string_view> extents_of(std::string_view shape) {
  std::vector<std::string_view> extents;
  while (!shape.empty()) {
    const std::size_t blank = std::min(shape.find(' '), shape.size());
    if (blank > 0) extents.push_back(shape.substr(0, blank));
    shape.remove_prefix(std::min(blank + 1, shape.size()));
  }
  return extents;
}

}  // namespace

Status resolve_args(PlanData& plan) {
  std::vector<std::string> groups;
  for (const ArgSpec& spec : plan.op->spec->args) {
    detail::ResolvedArg resolved;
    for_each_dtype(spec.dtypes, *plan.op->spec->problem, plan.problem.data(),
                   [&](DType dtype) { resolved.dtypes |= 1u << static_cast<int>(dtype); });
    for (const std::string_view text : extents_of(spec.shape)) {
      FATHOM_ASSIGN(const ResolvedExtent extent, resolve_extent(text, plan, groups));
      if (resolved.rank < TensorView::kMaxRank) resolved.extents[resolved.rank] = extent;
      ++resolved.rank;
    }
    if (resolved.rank > TensorView::kMaxRank || resolved.dtypes == 0 || groups.size() > detail::kMostExtentGroups) {
      return Status::invalid("%s: the contract of %s is beyond what plans can hold", plan.op->spec->name, spec.name);
    }
    plan.args.push_back(resolved);
  }
  return {};
}

std::string shape_text(const TensorView& view) {
  std::string text = "[";
  for (int i = 0; i < view.rank && i < TensorView::kMaxRank; ++i) text += (i > 0 ? ", " : "") + std::to_string(view.shape[i]);
  return text + "]";
}

std::string dtype_names(std::uint32_t dtypes) {
  std::string text;
  for (int i = 0; i < kDTypeCount; ++i) {
    if (dtypes >> i & 1u) text += (text.empty() ? "" : " or ") + std::string(kDTypes[i].name);
  }
  return text;
}

std::string expected_shape(const ArgSpec& spec, const detail::ResolvedArg& resolved,
                           std::span<const std::int64_t> bound) {
  std::string text = "[";
  int i = 0;
  for (const std::string_view name : extents_of(spec.shape)) {
    const ResolvedExtent& extent = resolved.extents[i++];
    text += (text.size() > 1 ? ", " : "") + std::string(name);
    if (extent.kind == ResolvedExtent::Kind::fixed) {
      if (!std::isdigit(static_cast<unsigned char>(name.front()))) text += "=" + std::to_string(extent.value);
    } else if (bound[extent.group] >= 0) {
      text += "=" + std::to_string(bound[extent.group]);
    }
    if (extent.kind == ResolvedExtent::Kind::capacity) text += " (at most " + std::to_string(extent.value) + ")";
  }
  return text + "]";
}

Result<std::vector<std::int64_t>> arg_shape(const OpSpec& op, const void* problem, const ArgSpec& arg, const Extents& extents) noexcept {
  return guarded(op.name, [&]() -> Result<std::vector<std::int64_t>> {
    std::vector<std::int64_t> shape;
    for (const std::string_view text : extents_of(arg.shape)) {
      FATHOM_ASSIGN(const ExtentText read, read_extent(text));
      std::int64_t product = read.number;
      for (const std::string_view word : read.words) {
        const auto given = extents.find(word);
        const std::int64_t value = given != extents.end() ? given->second : problem_integer(*op.problem, problem, word);
        if (value < 0) {
          return Status::invalid("%s: the extent \"%s\" of %s has no value", op.name, std::string(word).c_str(), arg.name);
        }
        product *= value;
      }
      shape.push_back(read.of(product));
    }
    return shape;
  });
}

Result<std::vector<DType>> arg_dtypes(const OpSpec& op, const void* problem, const ArgSpec& arg) noexcept {
  return guarded(op.name, [&]() -> Result<std::vector<DType>> {
    std::vector<DType> dtypes;
    for_each_dtype(arg.dtypes, *op.problem, problem, [&](DType dtype) { dtypes.push_back(dtype); });
    return dtypes;
  });
}

}  // namespace fathom
