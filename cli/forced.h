// The words of --force: "OP=IMPL", once for each op.
#pragma once

#include <string>
#include <vector>

#include "harness/conformance.h"

namespace fathom::cli {

/// By op; a word that is no OP=IMPL with a known op, or an op named twice, is an error.
inline Result<harness::Forced> parse_force(const std::vector<std::string>& words) {
  harness::Forced forced;
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    const std::string op = word.substr(0, equals);
    if (equals == std::string::npos || equals + 1 == word.size()) {
      return Status::invalid("--force: \"%s\" is not OP=IMPL", word.c_str());
    }
    if (find_op(op) == nullptr) return Status::invalid("--force: there is no op \"%s\"", op.c_str());
    if (!forced.emplace(op, word.substr(equals + 1)).second)
      return Status::invalid("--force: %s is named twice", op.c_str());
  }
  return forced;
}

/// The words as PlanOptions::implementation takes them.
inline std::string joined_force(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

}  // namespace fathom::cli
