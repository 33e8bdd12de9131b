// q_form and out_form on the CPU, round a kernel that knows final queries and plain results alone. Queries are finished
// into scratch and results where they lie, some tokens at a time, by the words that project and output use: a pass over
// heads costs nothing beside their rows, and no kernel has to know forms.
#include "attend/attend_impl.h"
#include "cache/number_codecs.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "simd/rows.h"

namespace fathom {
namespace {

constexpr std::int32_t kTokenTile = 64;

bool has_forms(const AttendProblem& problem) {
  return problem.q_form != QForm::final || problem.out_form != OutForm::plain;
}

/// What the kernel is asked for.
AttendProblem without_forms(AttendProblem problem) {
  problem.num_tokens = std::min(problem.num_tokens, kTokenTile);
  problem.q_form = QForm::final;
  if (problem.out_form == OutForm::e4m3) problem.out_dtype = DType::bf16;
  problem.out_form = OutForm::plain;
  return problem;
}

struct Pieces {
  TensorView q;      ///< finished, where they came raw
  TensorView plain;  ///< results that codes are made of
  float* rows;       ///< [threads, head_dim]
};
Pieces lay_out(const AttendProblem& problem, const Device& device, Scratch& scratch) {
  const std::int64_t tile = std::min(problem.num_tokens, kTokenTile), heads = problem.num_heads, dim = problem.head_dim;
  const auto take = [&](DType dtype) {
    return view(scratch.take<std::byte>(bytes_of(dtype, tile * heads * dim)), dtype, {tile, heads, dim});
  };
  Pieces pieces;
  if (problem.q_form == QForm::raw) pieces.q = take(problem.q_dtype);
  if (problem.out_form == OutForm::e4m3) pieces.plain = take(DType::bf16);
  pieces.rows = scratch.take<float>(device.num_threads() * dim);
  return pieces;
}

/// The arguments of tokens [first, first + count).
AttendArgs args_of(AttendArgs args, std::int64_t first, std::int64_t count) {
  for (TensorView* view :
       {&args.q, &args.seq_ids, &args.out, &args.lse, &args.max_logits, &args.positions, &args.out_scale}) {
    *view = rows_of(*view, first, count);
  }
  for (RowSet* set : {&args.window, &args.entries}) {
    for (TensorView* view : {&set->indices, &set->lengths, &set->begin, &set->end})
      *view = rows_of(*view, first, count);
  }
  return args;
}

/// Calls work(token, head, row, rope) for every head; `rope` is null where the token is padding.
template <class Work>
void for_each_head(const AttendProblem& problem, const AttendArgs& args, const Pieces& pieces, const Device& device,
                   const Work& work) {
  parallel_for(device, args.q.shape[0] * problem.num_heads, 4, [&](std::int64_t begin, std::int64_t end, int part) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = i / problem.num_heads, position = args.positions.at<std::int32_t>(t);
      const float* rope = is_token(args.rope_table, position) ? rope_row(args.rope_table, position) : nullptr;
      work(t, i % problem.num_heads, pieces.rows + part * std::int64_t{problem.head_dim}, rope);
    }
  });
}

std::int64_t at(const TensorView& heads, std::int64_t t, std::int64_t h) {
  return t * heads.strides[0] + h * heads.strides[1];
}

void finish_queries(const AttendProblem& problem, const AttendArgs& args, const Pieces& pieces, const Device& device) {
  const std::int64_t dim = problem.head_dim;
  for_each_head(problem, args, pieces, device, [&](std::int64_t t, std::int64_t h, float* row, const float* rope) {
    if (rope != nullptr) {
      load_row(args.q, at(args.q, t, h), dim, row);
      head_norm(row, dim, problem.norm_eps, problem.q_dtype);
      rotate(row + dim - problem.rope_dim, problem.rope_dim, rope);
    } else {
      std::fill_n(row, dim, 0.0f);
    }
    store_row(pieces.q, at(pieces.q, t, h), dim, row);
  });
}

/// Turns plain results back, where they lie or on their way to codes.
void finish_results(const AttendProblem& problem, const AttendArgs& args, const Pieces& pieces, const Device& device) {
  const std::int64_t dim = problem.value_dim;
  const bool codes = problem.out_form == OutForm::e4m3;
  const TensorView& plain = codes ? pieces.plain : args.out;
  for_each_head(problem, args, pieces, device, [&](std::int64_t t, std::int64_t h, float* row, const float* rope) {
    if (rope != nullptr) {
      load_row(plain, at(plain, t, h), dim, row);
      rotate(row + dim - problem.rope_dim, problem.rope_dim, rope, -1.0f);
    } else {
      std::fill_n(row, dim, 0.0f);
    }
    if (!codes) return store_row(args.out, at(args.out, t, h), dim, row);
    auto* to = args.out.row<std::uint8_t>(t, h);
    for (std::int64_t first = 0; first < dim; first += kOutScaleBlock) {
      const int count = static_cast<int>(std::min<std::int64_t>(kOutScaleBlock, dim - first));
      args.out_scale.row<std::uint8_t>(t, h)[first / kOutScaleBlock] = quantise_q8(row + first, count, to + first);
    }
  });
}

}  // namespace

Result<Prepared> prepare_forms_cpu(AttendPrepare prepare, const AttendProblem& problem, const Device& device,
                                   const PlanOptions& options) {
  if (!has_forms(problem)) return prepare(problem, device, options);
  FATHOM_ASSIGN(Prepared prepared, prepare(without_forms(problem), device, options));
  Scratch scratch;
  lay_out(problem, device, scratch);
  scratch.take<std::byte>(prepared.workspace.scratch);
  prepared.workspace.scratch = scratch.used();
  return prepared;
}

Status attend_forms_cpu(AttendRun run, const AttendProblem& problem, const AttendArgs& args,
                        const RunContext& context) {
  if (!has_forms(problem)) return run(problem, args, context);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, scratch);
  const AttendProblem inner_problem = without_forms(problem);
  Workspace workspace = context.workspace;
  workspace.scratch = {static_cast<std::byte*>(workspace.scratch.data) + scratch.used(),
                       workspace.scratch.bytes - scratch.used()};
  const RunContext inner{context.device, workspace, context.stream, context.state};
  const std::int64_t num_tokens = args.q.shape[0];
  for (std::int64_t first = 0; first < num_tokens; first += kTokenTile) {
    const std::int64_t count = std::min<std::int64_t>(kTokenTile, num_tokens - first);
    const AttendArgs tile = args_of(args, first, count);
    AttendArgs plain = tile;
    if (problem.q_form == QForm::raw) {
      finish_queries(problem, tile, pieces, context.device);
      plain.q = first_rows(pieces.q, count);
    }
    if (problem.out_form == OutForm::e4m3) plain.out = first_rows(pieces.plain, count);
    plain.rope_table = plain.positions = plain.out_scale = {};
    FATHOM_TRY(run(inner_problem, plain, inner));
    if (problem.out_form != OutForm::plain) finish_results(problem, tile, pieces, context.device);
  }
  return {};
}

}  // namespace fathom
