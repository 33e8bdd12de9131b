// Reads "num_tokens num_heads*head_dim q_rank/128" and "f32|$weight_dtype" (core/op.h).
#include "harness/extents.h"

#include <algorithm>
#include <charconv>

namespace fathom::harness {
namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t stop = std::min(text.find(separator), text.size());
    if (stop > 0) parts.push_back(text.substr(0, stop));
    text.remove_prefix(std::min(stop + 1, text.size()));
  }
  return parts;
}

std::int64_t number_of(std::string_view text) noexcept {
  std::int64_t value = -1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// "a*b/n+m": products first, then the division rounding up, then the sum.
Result<std::int64_t> resolve_extent(const OpSpec& op, const void* problem, std::string_view text,
                                    const Extents& extents) {
  const std::string_view whole = text;
  std::int64_t added = 0, divisor = 1;
  if (const std::size_t plus = text.find('+'); plus != std::string_view::npos) {
    added = number_of(text.substr(plus + 1));
    text = text.substr(0, plus);
  }
  if (const std::size_t slash = text.find('/'); slash != std::string_view::npos) {
    divisor = number_of(text.substr(slash + 1));
    text = text.substr(0, slash);
  }
  std::int64_t product = 1;
  for (const std::string_view factor : split(text, '*')) {
    std::int64_t value = number_of(factor);
    if (const auto known = extents.find(factor); known != extents.end()) {
      value = known->second;
    } else if (value < 0) {
      value = problem_integer(*op.problem, problem, factor);
    }
    if (value < 0) {
      return Status::invalid("case: %s: the extent \"%s\" of \"%s\" has no value", op.name, std::string(factor).c_str(),
                             std::string(whole).c_str());
    }
    product *= value;
  }
  return (product + divisor - 1) / divisor + added;
}

}  // namespace

const ProblemField* problem_field(const OpSpec& op, std::string_view name) noexcept {
  for (const ProblemField& field : op.problem->fields) {
    if (name == field.name) return &field;
  }
  return nullptr;
}

Result<std::vector<std::int64_t>> resolve_shape(const OpSpec& op, const void* problem, const ArgSpec& spec,
                                                const Extents& extents) {
  std::vector<std::int64_t> shape;
  for (const std::string_view text : split(spec.shape, ' ')) {
    FATHOM_ASSIGN(const std::int64_t extent, resolve_extent(op, problem, text, extents));
    shape.push_back(extent);
  }
  return shape;
}

std::vector<DType> allowed_dtypes(const OpSpec& op, const void* problem, const ArgSpec& spec) {
  std::vector<DType> dtypes;
  for (const std::string_view text : split(spec.dtypes, '|')) {
    if (text.front() != '$') {
      if (const auto dtype = dtype_from(text)) dtypes.push_back(*dtype);
    } else if (const ProblemField* field = problem_field(op, text.substr(1))) {
      const auto value = static_cast<const std::uint8_t*>(problem)[field->offset];
      dtypes.push_back(field->kind == FieldKind::numerics ? activation_dtype(static_cast<Numerics>(value))
                                                          : static_cast<DType>(value));
    }
  }
  return dtypes;
}

}  // namespace fathom::harness
