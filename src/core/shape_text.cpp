#include "core/shape_text.h"

#include <cctype>
#include <cstring>

namespace fathom {
namespace {

using detail::PlanData;
using detail::ResolvedExtent;

const ProblemField* find_field(const ProblemSpec& spec, std::string_view name) {
  for (const ProblemField& field : spec.fields) {
    if (name == field.name) return &field;
  }
  return nullptr;
}

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

/// Reads one extent: factor {*factor} [/n].
ResolvedExtent resolve_extent(std::string_view text, const PlanData& plan, std::vector<std::string>& groups) {
  const ProblemSpec& problem = *plan.op->spec->problem;
  ResolvedExtent extent;
  extent.value = 1;
  std::size_t at = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '*') {
      ++at;
    } else if (c == '/') {
      ++at;
      const std::int64_t divisor = digits(text, at);
      extent.value = (extent.value + divisor - 1) / divisor;
    } else if (std::isdigit(static_cast<unsigned char>(c))) {
      extent.value *= digits(text, at);
    } else {
      const std::string_view word = word_at(text, at);
      const ProblemField* field = find_field(problem, word);
      if (field == nullptr || field->kind == FieldKind::capacity) {
        extent.kind = field == nullptr ? ResolvedExtent::Kind::free : ResolvedExtent::Kind::capacity;
        extent.group = group_of(groups, word);
      }
      if (field != nullptr) extent.value *= problem_integer(problem, plan.problem.data(), word);
    }
  }
  return extent;
}

std::uint32_t resolve_dtypes(std::string_view text, const PlanData& plan) {
  std::uint32_t dtypes = 0;
  while (!text.empty()) {
    const std::size_t bar = std::min(text.find('|'), text.size());
    const std::string_view word = text.substr(0, bar);
    text.remove_prefix(std::min(bar + 1, text.size()));
    if (word.front() != '$') {
      if (const auto dtype = dtype_from(word)) dtypes |= 1u << static_cast<int>(*dtype);
      continue;
    }
    const ProblemField* field = find_field(*plan.op->spec->problem, word.substr(1));
    if (field == nullptr) continue;
    const auto value = static_cast<std::uint8_t>(plan.problem[field->offset]);
    const DType dtype = field->kind == FieldKind::numerics ? activation_dtype(static_cast<Numerics>(value)) : static_cast<DType>(value);
    dtypes |= 1u << static_cast<int>(dtype);
  }
  return dtypes;
}

template <class Visit>
void for_each_extent(const char* shape, Visit&& visit) {
  std::string_view text = shape;
  while (!text.empty()) {
    const std::size_t blank = std::min(text.find(' '), text.size());
    if (blank > 0) visit(text.substr(0, blank));
    text.remove_prefix(std::min(blank + 1, text.size()));
  }
}

}  // namespace

Status resolve_args(PlanData& plan) {
  std::vector<std::string> groups;
  for (const ArgSpec& spec : plan.op->spec->args) {
    detail::ResolvedArg resolved;
    resolved.dtypes = resolve_dtypes(spec.dtypes, plan);
    for_each_extent(spec.shape, [&](std::string_view text) {
      if (resolved.rank < TensorView::kMaxRank) resolved.extents[resolved.rank] = resolve_extent(text, plan, groups);
      ++resolved.rank;
    });
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
  for_each_extent(spec.shape, [&](std::string_view name) {
    const ResolvedExtent& extent = resolved.extents[i++];
    text += (text.size() > 1 ? ", " : "") + std::string(name);
    if (extent.kind == ResolvedExtent::Kind::fixed) {
      if (!std::isdigit(static_cast<unsigned char>(name.front()))) text += "=" + std::to_string(extent.value);
    } else if (bound[extent.group] >= 0) {
      text += "=" + std::to_string(bound[extent.group]);
    }
    if (extent.kind == ResolvedExtent::Kind::capacity) text += " (at most " + std::to_string(extent.value) + ")";
  });
  return text + "]";
}

}  // namespace fathom
