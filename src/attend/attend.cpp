// attend: check -> select -> plan -> run.
#include "fathom/attend.h"

#include "attend/attend_impl.h"
#include "core/arg_checks.h"

namespace fathom {
namespace {

#define FATHOM_SET_FIELDS(SET)                                                                                                     \
  {offsetof(AttendProblem, SET##_rows), FieldKind::word, #SET "_rows", "how " #SET " names its rows", 0, 0, kRowsByWords},         \
      {offsetof(AttendProblem, SET##_format), FieldKind::word, #SET "_format", "rows of the " #SET " cache", 0, 0, kCacheFormatWords}, \
      {offsetof(AttendProblem, SET##_page_size), FieldKind::integer, #SET "_page_size", "rows of a page", 1, kMaxPageSize},        \
      {offsetof(AttendProblem, SET##_width), FieldKind::integer, #SET "_width", "list: columns; range: most rows of a query", 0, kMaxEntries}
constexpr ProblemField kFields[] = {
    {offsetof(AttendProblem, num_tokens), FieldKind::capacity, "num_tokens", "query tokens of a step, at most", 0,
     kMaxTokens},
    {offsetof(AttendProblem, num_seqs), FieldKind::capacity, "num_seqs", "rows of the block tables, at most", 0,
     kMaxSeqs},
    {offsetof(AttendProblem, num_heads), FieldKind::integer, "num_heads", "query heads", 1, kMaxHeads},
    {offsetof(AttendProblem, head_dim), FieldKind::integer, "head_dim", "elements of q and of a key", 1, 4096},
    {offsetof(AttendProblem, value_dim), FieldKind::integer, "value_dim",
     "leading elements of a row that are its value", 1, 4096},
    {offsetof(AttendProblem, q_dtype), FieldKind::dtype, "q_dtype", "f32 or bf16"},
    {offsetof(AttendProblem, out_dtype), FieldKind::dtype, "out_dtype", "f32 or bf16; e4m3 with out_form=e4m3"},
    {offsetof(AttendProblem, softmax_scale), FieldKind::real, "softmax_scale", "factor on q . k"},
    FATHOM_SET_FIELDS(window),
    FATHOM_SET_FIELDS(entries),
    {offsetof(AttendProblem, split), FieldKind::word, "split",
     "where rows are cut on a GPU: balanced fills it; fixed: by the query alone", 0, 0, kSplitWords},
    {offsetof(AttendProblem, q_form), FieldKind::word, "q_form", "raw: head norm and rotation are attend's to do", 0, 0,
     kQFormWords},
    {offsetof(AttendProblem, out_form), FieldKind::word, "out_form",
     "unrotated: attend undoes RoPE; e4m3: and quantises", 0, 0, kOutFormWords},
    {offsetof(AttendProblem, rope_dim), FieldKind::integer, "rope_dim",
     "raw q, out not plain: rotated elements, the last of a head", 0, 4096},
    {offsetof(AttendProblem, norm_eps), FieldKind::real, "norm_eps", "raw q: added to the mean square of a head", 0, 1},
};
#undef FATHOM_SET_FIELDS
constexpr AttendProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(AttendProblem), &kDefaults};

constexpr OpSpec kSpec{"attend", "attend", "Attend to the window's rows and the selected entries in one softmax, the sink in the denominator.",
                       "out = sum exp(l_i) row_i / (sum exp(l_i) + exp(sink)),  l_i = (q . row_i) softmax_scale,  lse = ln sum exp(l_i)",
                       "spec 6.1, 6.2", kAttendArgs, &kProblem};

bool takes_rope(const AttendProblem& problem) noexcept {
  return problem.q_form == QForm::raw || problem.out_form != OutForm::plain;
}

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const AttendProblem*>(opaque);
  FATHOM_TRY(check_float("attend", "q_dtype", problem.q_dtype));
  if (problem.out_form != OutForm::e4m3) {
    FATHOM_TRY(check_float("attend", "out_dtype", problem.out_dtype));
  } else if (problem.out_dtype != DType::e4m3) {
    return Status::invalid("attend: out_dtype is %s, expected e4m3 (out_form=e4m3)", name_of(problem.out_dtype));
  }
  if (problem.value_dim > problem.head_dim) {
    return Status::invalid("attend: value_dim is %d, expected at most head_dim=%d", problem.value_dim, problem.head_dim);
  }
  if (takes_rope(problem)) FATHOM_TRY(check_rope_dim("attend", problem.rope_dim, problem.head_dim));
  if (problem.out_form != OutForm::plain && problem.value_dim != problem.head_dim) {
    return Status::invalid("attend: value_dim is %d, expected head_dim=%d (out_form=%s)", problem.value_dim,
                           problem.head_dim, kOutFormWords[static_cast<int>(problem.out_form)]);
  }
  if (problem.window_rows != RowsBy::none) FATHOM_TRY(row_layout(problem.window_format, problem.head_dim).status());
  if (problem.entries_rows != RowsBy::none) FATHOM_TRY(row_layout(problem.entries_format, problem.head_dim).status());
  return {};
}

struct Member {
  const char* name;
  const TensorView& tensor;
  bool needed, allowed;
};

/// What rotates and quantises is there if the forms need it, and only then.
Status check_forms(const AttendProblem& problem, const AttendArgs& args) {
  const bool rope = takes_rope(problem), scaled = problem.out_form == OutForm::e4m3;
  const Member members[] = {{"rope_table", args.rope_table, rope, rope},
                            {"positions", args.positions, rope, rope},
                            {"out_scale", args.out_scale, scaled, scaled}};
  for (const Member& member : members) {
    if (member.needed != member.tensor.is_absent()) continue;
    return Status::invalid("attend: %s %s, expected %s with q_form=%s out_form=%s", member.name,
                           member.needed ? "is missing" : "came", member.needed ? "one" : "none",
                           kQFormWords[static_cast<int>(problem.q_form)],
                           kOutFormWords[static_cast<int>(problem.out_form)]);
  }
  return {};
}

/// The set has what its kind needs and nothing else.
Status check_set(const char* name, RowsBy rows_by, const RowSet& set) {
  const bool list = rows_by == RowsBy::list, range = rows_by == RowsBy::range;
  const Member members[] = {
      {"cache", set.cache, list || range, list || range}, {"indices", set.indices, list, list}, {"lengths", set.lengths, false, list},
      {"begin", set.begin, false, range},                 {"end", set.end, range, range},       {"block_table", set.block_table, range, range},
  };
  for (const Member& member : members) {
    const char* kind = kRowsByWords[static_cast<int>(rows_by)];
    if (member.needed && member.tensor.is_absent()) {
      return Status::invalid("attend: %s.%s is missing, %s_rows=%s needs it", name, member.name, name, kind);
    }
    if (!member.allowed && !member.tensor.is_absent()) {
      return Status::invalid("attend: %s.%s came with %s_rows=%s, expected none", name, member.name, name, kind);
    }
  }
  return {};
}

Status check_cache(const char* name, RowsBy rows_by, CacheFormat format, int head_dim, int page_size, const TensorView& cache) {
  if (rows_by == RowsBy::none) return {};
  FATHOM_ASSIGN(const RowLayout layout, row_layout(format, head_dim));
  return paged_cache("attend", name, cache, layout, page_size).status();
}

Status check(const void* opaque, const void* opaque_args) {
  const auto& problem = *static_cast<const AttendProblem*>(opaque);
  const auto& args = *static_cast<const AttendArgs*>(opaque_args);
  FATHOM_TRY(check_forms(problem, args));
  FATHOM_TRY(check_set("window", problem.window_rows, args.window));
  FATHOM_TRY(check_set("entries", problem.entries_rows, args.entries));
  const bool range = problem.window_rows == RowsBy::range || problem.entries_rows == RowsBy::range;
  if (range && args.seq_ids.is_absent()) return Status::invalid("attend: seq_ids is missing, a range needs it");
  FATHOM_TRY(check_cache("window.cache", problem.window_rows, problem.window_format, problem.head_dim, problem.window_page_size, args.window.cache));
  return check_cache("entries.cache", problem.entries_rows, problem.entries_format, problem.head_dim, problem.entries_page_size, args.entries.cache);
}

}  // namespace

const ProblemSpec& AttendProblem::spec() noexcept { return kProblem; }

const Op& attend_op() noexcept {
  static const Op op{&kSpec, attend_implementations(), validate, check};
  return op;
}

Result<AttendPlan> plan_attend(const AttendProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<AttendPlan>(attend_op(), problem, device, options);
}
Status attend(const AttendPlan& plan, const AttendArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(attend_op(), plan, args, workspace, stream);
}

}  // namespace fathom
