// compress: check -> select -> plan -> run.
#include "fathom/compress.h"

#include "compress/compress_impl.h"
#include "core/arg_checks.h"

namespace fathom {
namespace {

constexpr ProblemField kFields[] = {
    {offsetof(CompressProblem, num_tokens), FieldKind::capacity, "num_tokens", "tokens of a step, at most", 0, kMaxTokens},
    {offsetof(CompressProblem, num_seqs), FieldKind::capacity, "num_seqs", "rows of the block table, at most", 0, kMaxSeqs},
    {offsetof(CompressProblem, hidden_size), FieldKind::integer, "hidden_size", "elements of a hidden state", 1, kMaxDim},
    {offsetof(CompressProblem, dim), FieldKind::integer, "dim", "elements of an entry", 2, 4096},
    {offsetof(CompressProblem, rope_dim), FieldKind::integer, "rope_dim", "rotated elements, the last of an entry", 0, 4096},
    {offsetof(CompressProblem, ratio), FieldKind::integer, "ratio", "tokens of a group", 1, 4096},
    {offsetof(CompressProblem, overlap), FieldKind::integer, "overlap", "1: an entry pools the group before as well", 0, 1},
    {offsetof(CompressProblem, hadamard), FieldKind::integer, "hadamard", "1: Walsh-Hadamard rotation before quantising", 0, 1},
    {offsetof(CompressProblem, numerics), FieldKind::numerics, "numerics", "exact: f32 activations; served: bf16"},
    {offsetof(CompressProblem, weight_dtype), FieldKind::dtype, "weight_dtype", "f32 or bf16"},
    {offsetof(CompressProblem, format), FieldKind::word, "format", "rows of the cache", 0, 0, kCacheFormatWords},
    {offsetof(CompressProblem, page_size), FieldKind::integer, "page_size", "rows of a page", 1, kMaxPageSize},
    {offsetof(CompressProblem, state_page_size), FieldKind::integer, "state_page_size", "state rows of a page", 1, kMaxPageSize},
    {offsetof(CompressProblem, norm_eps), FieldKind::real, "norm_eps", "added to the mean square", 0, 1},
};
constexpr CompressProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(CompressProblem), &kDefaults};

constexpr OpSpec kSpec{"compress", "compress", "Pool groups of tokens into compressed entries or index keys, carrying state rows between steps.",
                       "entry[c] = sum over rows i of softmax_i(score[i, c]) * kv[i, c], then RMSNorm, RoPE at j * ratio, quantise",
                       "spec 3", kCompressArgs, &kProblem};

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const CompressProblem*>(opaque);
  FATHOM_TRY(check_float("compress", "weight_dtype", problem.weight_dtype));
  FATHOM_TRY(check_rope_dim("compress", problem.rope_dim, problem.dim));
  if (problem.hadamard != 0 && (problem.dim & (problem.dim - 1)) != 0) {
    return Status::invalid("compress: dim is %d, expected a power of two with hadamard=1", problem.dim);
  }
  return row_layout(problem.format, problem.dim).status();
}

Status check(const void* opaque, const void* opaque_args) {
  const auto& problem = *static_cast<const CompressProblem*>(opaque);
  const auto& args = *static_cast<const CompressArgs*>(opaque_args);
  if (args.wkv.shape[0] != problem.width()) {
    return Status::invalid("compress: wkv has %lld rows, expected width=%lld (dim * (overlap + 1))",
                           static_cast<long long>(args.wkv.shape[0]), static_cast<long long>(problem.width()));
  }
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.format, problem.dim));
  FATHOM_TRY(paged_cache("compress", "cache", args.cache, layout, problem.page_size).status());
  FATHOM_ASSIGN(const RowLayout state, row_layout(CacheFormat::state_f32, static_cast<int>(2 * problem.width())));
  return paged_cache("compress", "state_cache", args.state_cache, state, problem.state_page_size).status();
}

}  // namespace

const ProblemSpec& CompressProblem::spec() noexcept { return kProblem; }

const Op& compress_op() noexcept {
  static const Op op{&kSpec, compress_implementations(), validate, check};
  return op;
}

Result<CompressPlan> plan_compress(const CompressProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<CompressPlan>(compress_op(), problem, device, options);
}
Status compress(const CompressPlan& plan, const CompressArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(compress_op(), plan, args, workspace, stream);
}

}  // namespace fathom
