// Writes docs/ops: one page for each op of the table, and a list of them.   op_docs FOLDER
// scripts/gen_docs.sh keeps the pages; a test fails when they no longer say what the table says.
#include <cstdio>
#include <fstream>
#include <string>

#include "core/determinism.h"
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

std::string determinism_page() {
  std::string text = "# Determinism\n\n" + std::string(kMadeBy);
  text +=
      "What each implementation promises about its bits, in the five words that cuDNN uses (the table is `src/core/determinism.cpp`).\n\n"
      "- **Repeatability**: the same call again, on the same machine and build, gives the same bits; on CPUs with any number of threads.\n"
      "- **Batch invariance**: a token's bits do not depend on the other tokens of its step, on their number or their order.\n\n"
      "| word | meaning |\n|---|---|\n"
      "| Supported | always; a test holds it |\n"
      "| Replay only | when one captured graph is replayed |\n"
      "| Not guaranteed | known to depend on it |\n"
      "| Unverified | believed, and held by no test |\n"
      "| Unsupported | the implementation refuses such calls |\n\n"
      "| op | implementation | repeatability | batch invariance |\n|---|---|---|---|\n";
  for (const Determinism& row : determinism_table()) {
    text += "| [" + std::string(row.op) + "](" + row.op + ".md) | `" + row.implementation + "`" +
            (std::string(row.op) == "layer" ? std::string(" (") + name_of(row.device) + ")" : std::string()) +
            (*row.condition != 0 ? std::string(", `") + row.condition + "`" : std::string()) + " | " +
            name_of(row.repeatability) + " | " + name_of(row.batch_invariance) + " |\n";
  }
  text +=
      "\nThe suite `DeterminismWords` proves the CPU's rows: twenty runs on one to four threads with other bytes in "
      "outputs and workspace,\n"
      "and the tokens of every case in one call, in two, and each alone with the last first (whole sequences where an "
      "op carries state).\n"
      "`CudaConformance` runs every case twice and demands equal bits; `AttendSplit` proves the batch invariance that "
      "attend's CUDA rows\n"
      "promise, over batches, neighbours, plans and multiprocessors. A layer's words are those of the weakest of its "
      "ops; on the CPU its\n"
      "bits depend on chunks, page sizes and page order as little (suite `Layer`). Other instruction sets, GPUs and "
      "builds give other bits.\n";
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
  list += "\nWhich implementations give the same bits, and when: [determinism](determinism.md).\n";
  written = write(folder + "/determinism.md", determinism_page()) && written;
  written = write(folder + "/README.md", list) && written;
  if (!written) return std::fprintf(stderr, "op_docs: cannot write to %s\n", folder.c_str()), 1;
  return 0;
}
