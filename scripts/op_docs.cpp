// Writes docs/ops: one page for each op of the table, and a list of them.   op_docs FOLDER
// scripts/gen_docs.sh keeps the pages; a test fails when they no longer say what the table says.
#include <cstdio>
#include <fstream>
#include <string>

#include "fathom/core/op.h"

using namespace fathom;

namespace {

constexpr const char* kMadeBy = "<!-- Written by scripts/gen_docs.sh from the op table; edit the op's header instead. -->\n\n";

/// Text inside a table cell: '|' would end the cell.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

std::string allowed(const ProblemField& field) {
  if (field.kind == FieldKind::real && field.most == field.least) return "finite";
  const auto words = field_words(field);
  if (words.empty()) return std::to_string(field.least) + " to " + std::to_string(field.most);
  std::string out;
  for (const char* word : words) out += (out.empty() ? "" : ", ") + std::string(word);
  return out;
}

std::string page(const OpSpec& op) {
  std::string text = "# " + std::string(op.name) + "\n\n" + kMadeBy + op.summary + "\n\n```\n" + op.formula + "\n```\n\n";
  text += "Source: " + std::string(op.source) + ". Stage: `" + op.stage + "`.\n\n## Arguments, in order\n\n";
  text += "| argument | role | shape | types | meaning |\n|---|---|---|---|---|\n";
  for (const ArgSpec& arg : op.args) {
    text += "| `" + std::string(arg.name) + "` | " + name_of(arg.role) + " | `[" + arg.shape + "]` | `" + cell(arg.dtypes) +
            "` | " + cell(arg.doc) + " |\n";
  }
  text += "\nAn extent is a field of the problem, or a free number that must agree wherever its name stands; `a*b` multiplies, "
          "`/n` divides\nrounding up. `$field` is the type that field holds.\n\n## Problem\n\n";
  text += "| field | values | default | meaning |\n|---|---|---|---|\n";
  for (const ProblemField& field : op.problem->fields) {
    text += "| `" + std::string(field.name) + "` | " + allowed(field) + (field.kind == FieldKind::capacity ? ", a capacity" : "") +
            " | " + field_text(field, op.problem->defaults) + " | " + cell(field.doc) + " |\n";
  }
  text += "\nA capacity is the most that a run may bring; it may bring fewer.\n";
  for (const FieldGroup& group : field_groups(*op.problem)) {
    text += "\nIn a problem's text `" + std::string(group.name) + "=...` sets " + group.fields + ", except where the text names one of them too.\n";
  }
  return text;
}

bool write(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  return static_cast<bool>(file.flush());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: op_docs FOLDER\n"), 2;
  const std::string folder = argv[1];
  std::string list = "# Ops\n\n" + std::string(kMadeBy) + "In the order of the layer's story.\n\n| op | what it does |\n|---|---|\n";
  bool written = true;
  for (const OpSpec* op : op_table()) {
    written = write(folder + "/" + op->name + ".md", page(*op)) && written;
    list += "| [" + std::string(op->name) + "](" + op->name + ".md) | " + cell(op->summary) + " |\n";
  }
  written = write(folder + "/README.md", list) && written;
  if (!written) return std::fprintf(stderr, "op_docs: cannot write to %s\n", folder.c_str()), 1;
  return 0;
}
