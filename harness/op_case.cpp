// Splits a case text into problem fields and words, and hands the empty case to the op's generator.
#include "harness/op_case.h"

#include <algorithm>
#include <charconv>

#include "harness/generate.h"

namespace fathom::harness {
namespace {

constexpr CaseWord kWords[] = {
    {"seed", "seed of every random choice (1)"},
    {"tokens", "tokens the run brings, at most num_tokens"},
    {"seqs", "sequences the run brings, at most num_seqs"},
    {"context", "tokens (or entries) before this step in the longest sequence"},
    {"holes", "1: -1 among slots, pages and list items, padding tokens"},
    {"hostile", "1: numbers outside every bound among slots, lengths, pages, positions"},
    {"ties", "1: many equal scores"},
    {"nans", "1: NaN, infinities, huge and tiny numbers in half of the rows; 2: the same without infinities"},
    {"strided", "1: rows apart from each other"},
    {"sink", "0: absent, 1: given, 2: with infinities"},
    {"outputs", "optional outputs: 0 none, 1 all"},
};

Result<std::int64_t> word_value(std::string_view name, std::string_view text) {
  std::int64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size() || value < 0) {
    return Status::invalid("case: %s is \"%s\", expected a whole number", std::string(name).c_str(),
                           std::string(text.substr(0, 40)).c_str());
  }
  return value;
}

/// Fields go to the problem, everything else must be a word.
Status split_text(OpCase& built) {
  const std::string_view text = built.text;
  std::string fields;
  for (std::size_t at = text.find_first_not_of(" \t"); at != std::string_view::npos;) {
    const std::size_t stop = std::min(text.find_first_of(" \t", at), text.size());
    const std::string_view item = text.substr(at, stop - at);
    at = text.find_first_not_of(" \t", stop);
    const std::size_t equals = std::min(item.find('='), item.size());
    const std::string_view name = item.substr(0, equals);
    const bool is_word =
        std::any_of(std::begin(kWords), std::end(kWords), [&](const CaseWord& word) { return name == word.name; });
    if (!is_word || find_field(*built.op->problem, name) != nullptr) {
      fields += std::string(item) + " ";
      continue;
    }
    FATHOM_ASSIGN(const std::int64_t value, word_value(name, item.substr(std::min(equals + 1, item.size()))));
    if (!built.words.emplace(name, value).second) {
      return Status::invalid("case: %s is given twice", std::string(name).c_str());
    }
  }
  built.problem.resize(built.op->problem->size);
  return parse_problem(*built.op->problem, fields, built.problem.data());
}

}  // namespace

std::vector<CaseWord> case_words() { return {std::begin(kWords), std::end(kWords)}; }

std::size_t OpCase::index_of(std::string_view name) const noexcept {
  std::size_t i = 0;
  while (i < op->args.size() && name != op->args[i].name) ++i;
  return i;
}

std::int64_t OpCase::input_bytes() const noexcept {
  std::int64_t bytes = 0;
  for (const Argument& argument : args) bytes += argument.block.size();
  return bytes;
}

std::int64_t span_bytes(const TensorView& view) noexcept {
  if (view.numel() == 0) return 0;
  std::int64_t elements = 1;
  for (int i = 0; i < view.rank; ++i) elements += (view.shape[i] - 1) * view.strides[i];
  return bytes_of(view.dtype, elements);
}

Result<OpCase> read_case(std::string_view op, std::string_view text) {
  OpCase built;
  built.op = find_op(op);
  if (built.op == nullptr) return Status::invalid("case: there is no op \"%s\"", std::string(op.substr(0, 40)).c_str());
  built.text = text;
  FATHOM_TRY(split_text(built));
  FATHOM_TRY(check_problem(*built.op->problem, built.op->name, built.problem.data()));
  return built;
}

Result<OpCase> make_case(std::string_view op, std::string_view text) {
  FATHOM_ASSIGN(OpCase built, read_case(op, text));
  built.args.resize(built.op->args.size());
  FATHOM_TRY(generate(built));
  for (Argument& argument : built.args) argument.checksum = argument.block.checksum();
  return built;
}

}  // namespace fathom::harness
