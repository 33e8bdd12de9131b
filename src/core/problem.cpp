#include "fathom/core/problem.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <vector>

namespace fathom {
namespace {

/// The names of kDTypes, as the words of a field.
constexpr auto kDTypeWords = [] {
  std::array<const char*, kDTypeCount> words{};
  for (int i = 0; i < kDTypeCount; ++i) words[i] = kDTypes[i].name;
  return words;
}();

template <class T>
T& member(void* problem, const ProblemField& field) noexcept {
  return *reinterpret_cast<T*>(static_cast<std::byte*>(problem) + field.offset);
}
template <class T>
const T& member(const void* problem, const ProblemField& field) noexcept {
  return *reinterpret_cast<const T*>(static_cast<const std::byte*>(problem) + field.offset);
}

bool is_integer(const ProblemField& field) noexcept {
  return field.kind == FieldKind::integer || field.kind == FieldKind::capacity;
}

/// The first field of the group, or null.
const ProblemField* find_group(const ProblemSpec& spec, std::string_view name) noexcept {
  for (const ProblemField& field : spec.fields) {
    if (field.group != nullptr && name == field.group) return &field;
  }
  return nullptr;
}

void set_group(const ProblemSpec& spec, std::string_view group, std::uint8_t value, void* problem) noexcept {
  for (const ProblemField& field : spec.fields) {
    if (field.group != nullptr && group == field.group) member<std::uint8_t>(problem, field) = value;
  }
}

/// What most fields of the group hold; of equally many the default, then the smallest.
std::uint8_t usual_value(const ProblemSpec& spec, const ProblemField& first, const void* problem) noexcept {
  std::array<int, 256> count{};
  for (const ProblemField& field : spec.fields) {
    if (field.group != nullptr && std::string_view(field.group) == first.group) ++count[member<std::uint8_t>(problem, field)];
  }
  const auto most = static_cast<std::uint8_t>(std::max_element(count.begin(), count.end()) - count.begin());
  const auto by_default = member<std::uint8_t>(spec.defaults, first);
  return count[by_default] == count[most] ? by_default : most;
}

std::string joined(std::span<const char* const> words) {
  std::string text;
  for (const char* word : words) text += (text.empty() ? "" : ", ") + std::string(word);
  return text;
}

/// `name` is the field's or its group's.
Status set_value(const ProblemField& field, const char* name, std::string_view value, void* problem) {
  const std::string shown(value.substr(0, 64));
  const char* end = value.data() + value.size();
  if (is_integer(field)) {
    std::int64_t number = 0;
    const auto [stop, error] = std::from_chars(value.data(), end, number);
    if (error != std::errc() || stop != end || number < field.least || number > field.most) {
      return Status::invalid("problem: %s is \"%s\", expected an integer from %lld to %lld", name, shown.c_str(),
                             static_cast<long long>(field.least), static_cast<long long>(field.most));
    }
    member<std::int32_t>(problem, field) = static_cast<std::int32_t>(number);
    return {};
  }
  if (field.kind == FieldKind::real) {
    float number = 0;
    const auto [stop, error] = std::from_chars(value.data(), end, number);
    if (error != std::errc() || stop != end || !std::isfinite(number)) {
      return Status::invalid("problem: %s is \"%s\", expected a finite number", name, shown.c_str());
    }
    member<float>(problem, field) = number;
    return {};
  }
  const auto words = field_words(field);
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (value == words[i]) {
      member<std::uint8_t>(problem, field) = static_cast<std::uint8_t>(i);
      return {};
    }
  }
  return Status::invalid("problem: %s is \"%s\", expected one of %s", name, shown.c_str(), joined(words).c_str());
}

}  // namespace

std::span<const char* const> field_words(const ProblemField& field) noexcept {
  switch (field.kind) {
    case FieldKind::dtype: return kDTypeWords;
    case FieldKind::numerics: return kNumericsWords;
    case FieldKind::word: return field.words;
    default: return {};
  }
}

std::vector<FieldGroup> field_groups(const ProblemSpec& spec) {
  std::vector<FieldGroup> groups;
  for (const ProblemField& field : spec.fields) {
    if (field.group == nullptr) continue;
    if (find_group(spec, field.group) == &field) groups.push_back({field.group, {}});
    // A table names the fields of a group one after the other.
    groups.back().fields += (groups.back().fields.empty() ? "" : ", ") + std::string(field.name);
  }
  return groups;
}

std::string field_text(const ProblemField& field, const void* problem) {
  char text[64];
  if (is_integer(field)) {
    std::snprintf(text, sizeof(text), "%d", member<std::int32_t>(problem, field));
    return text;
  }
  if (field.kind == FieldKind::real) {  // the shortest text that reads back, whatever the process's locale
    const auto [end, error] = std::to_chars(text, text + sizeof(text), member<float>(problem, field));
    return error == std::errc() ? std::string(text, end) : "?";
  }
  const auto words = field_words(field);
  const auto index = member<std::uint8_t>(problem, field);
  return index < words.size() ? words[index] : "?";
}

std::string problem_text(const ProblemSpec& spec, const void* problem) {
  std::string text;
  const auto add = [&](const char* name, const std::string& value) { text += (text.empty() ? "" : " ") + std::string(name) + "=" + value; };
  std::vector<std::byte> said(spec.size);  // the problem that the text so far describes
  std::memcpy(said.data(), spec.defaults, spec.size);
  for (const ProblemField& field : spec.fields) {
    if (field.group != nullptr && find_group(spec, field.group) == &field) {
      const std::string before = field_text(field, said.data());
      set_group(spec, field.group, usual_value(spec, field, problem), said.data());
      if (field_text(field, said.data()) != before) add(field.group, field_text(field, said.data()));
    }
    const std::string value = field_text(field, problem);
    if (value != field_text(field, said.data())) add(field.name, value);
  }
  return text;
}

Status parse_problem(const ProblemSpec& spec, std::string_view text, void* problem) noexcept {
  return guarded("problem", [&]() -> Status {
    constexpr std::size_t kMostBytes = 4096;
    if (text.size() > kMostBytes) {
      return Status::invalid("problem: the text has %zu bytes, expected at most %zu", text.size(), kMostBytes);
    }
    std::vector<std::byte> parsed(spec.size);
    std::memcpy(parsed.data(), spec.defaults, spec.size);
    struct Item {
      std::string name;
      std::string_view value;
    };
    std::vector<Item> items;
    std::size_t at = 0;
    while (true) {
      at = text.find_first_not_of(" \t\r\n", at);
      if (at == std::string_view::npos) break;
      const std::size_t stop = std::min(text.find_first_of(" \t\r\n", at), text.size());
      const std::string_view item = text.substr(at, stop - at);
      at = stop;
      const std::size_t equals = item.find('=');
      const std::string name(item.substr(0, std::min<std::size_t>(equals, 64)));
      if (equals == std::string_view::npos || (find_field(spec, name) == nullptr && find_group(spec, name) == nullptr)) {
        std::string names;
        for (const FieldGroup& group : field_groups(spec)) names += std::string(group.name) + ", ";
        for (const ProblemField& field : spec.fields) names += std::string(&field == spec.fields.data() ? "" : ", ") + field.name;
        return Status::invalid("problem: \"%s\" is not a field; write name=value with a name of %s", name.c_str(), names.c_str());
      }
      for (const Item& earlier : items) {
        if (earlier.name == name) return Status::invalid("problem: %s is given twice", name.c_str());
      }
      items.push_back({name, item.substr(equals + 1)});
    }
    for (const Item& item : items) {
      const ProblemField* first = find_group(spec, item.name);
      if (first == nullptr) continue;
      FATHOM_TRY(set_value(*first, first->group, item.value, parsed.data()));
      set_group(spec, item.name, member<std::uint8_t>(parsed.data(), *first), parsed.data());
    }
    for (const Item& item : items) {
      const ProblemField* field = find_field(spec, item.name);
      if (field != nullptr) FATHOM_TRY(set_value(*field, field->name, item.value, parsed.data()));
    }
    std::memcpy(problem, parsed.data(), spec.size);
    return {};
  });
}

Status check_problem(const ProblemSpec& spec, const char* op, const void* problem) noexcept {
  for (const ProblemField& field : spec.fields) {
    if (is_integer(field)) {
      const std::int64_t value = member<std::int32_t>(problem, field);
      if (value < field.least || value > field.most) {
        return Status::invalid("%s: %s is %lld, expected %lld to %lld", op, field.name, static_cast<long long>(value),
                               static_cast<long long>(field.least), static_cast<long long>(field.most));
      }
    } else if (field.kind == FieldKind::real) {
      const float value = member<float>(problem, field);
      if (!std::isfinite(value)) return Status::invalid("%s: %s is not finite", op, field.name);
      if (field.most > field.least && (value < static_cast<float>(field.least) || value > static_cast<float>(field.most))) {
        return Status::invalid("%s: %s is %g, expected %lld to %lld", op, field.name, static_cast<double>(value),
                               static_cast<long long>(field.least), static_cast<long long>(field.most));
      }
    } else if (member<std::uint8_t>(problem, field) >= field_words(field).size()) {
      return Status::invalid("%s: %s holds %d, which names nothing", op, field.name, member<std::uint8_t>(problem, field));
    }
  }
  return {};
}

const ProblemField* find_field(const ProblemSpec& spec, std::string_view name) noexcept {
  for (const ProblemField& field : spec.fields) {
    if (name == field.name) return &field;
  }
  return nullptr;
}

std::int64_t problem_integer(const ProblemSpec& spec, const void* problem, std::string_view name) noexcept {
  const ProblemField* field = find_field(spec, name);
  return field != nullptr && is_integer(*field) ? member<std::int32_t>(problem, *field) : -1;
}

}  // namespace fathom
