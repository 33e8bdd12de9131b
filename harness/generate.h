// The generators: one for each op, in generate_<group>.cpp.
#pragma once

#include "harness/case_builder.h"

namespace fathom::harness {

void generate_linear(CaseBuilder& builder);
void generate_project(CaseBuilder& builder);
void generate_compress(CaseBuilder& builder);
void generate_index_query(CaseBuilder& builder);
void generate_index(CaseBuilder& builder);
void generate_select_topk(CaseBuilder& builder);
void generate_attend(CaseBuilder& builder);
void generate_merge_partials(CaseBuilder& builder);
void generate_output(CaseBuilder& builder);
void generate_layer(CaseBuilder& builder);

/// Fills the arguments of `built`, whose op and problem are set.
Status generate(OpCase& built);

}  // namespace fathom::harness
