// Which generator fills which op.
#include "harness/generate.h"

#include <cstring>

namespace fathom::harness {
namespace {

struct Generator {
  const char* op;
  void (*fill)(CaseBuilder& builder);
};
constexpr Generator kGenerators[] = {
    {"linear", generate_linear},     {"project", generate_project},
    {"compress", generate_compress}, {"index_query", generate_index_query},
    {"index", generate_index},       {"select_topk", generate_select_topk},
    {"attend", generate_attend},     {"merge_partials", generate_merge_partials},
    {"output", generate_output},     {"layer", generate_layer},
};

}  // namespace

Status generate(OpCase& built) {
  for (const Generator& generator : kGenerators) {
    if (std::strcmp(generator.op, built.op->name) != 0) continue;
    CaseBuilder builder(built);
    FATHOM_TRY(builder.status());  // words that ask for more than the problem allows
    generator.fill(builder);
    return builder.status();
  }
  return Status::unsupported("case: no generator fills the arguments of %s (harness/generate.cpp)", built.op->name);
}

}  // namespace fathom::harness
