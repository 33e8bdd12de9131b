// A case's tokens in pieces: each piece is a call of its own over the same caches, so that a token's bits can be
// compared with those it has among all others.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "harness/plan_workspace.h"
#include "harness/run.h"

namespace fathom::test {

/// The dimension of an argument that counts tokens, or -1.
inline int token_dimension(const ArgSpec& spec) {
  const std::string shape = std::string(" ") + spec.shape + " ";
  const auto at = shape.find(" num_tokens ");
  if (at == std::string::npos) return -1;
  return static_cast<int>(std::count(shape.begin() + 1, shape.begin() + static_cast<std::ptrdiff_t>(at) + 1, ' '));
}

inline std::int64_t tokens_of(const harness::OpCase& built) {
  for (std::size_t i = 0; i < built.args.size(); ++i) {
    const int dimension = token_dimension(built.op->args[i]);
    if (dimension >= 0 && built.args[i].presence == harness::Presence::given)
      return built.args[i].view.shape[dimension];
  }
  return 0;
}

/// Tokens [first, first + count) of a case, in one call.
struct Piece {
  std::int64_t first, count;
};

/// A case's views, of these tokens alone.
inline std::vector<TensorView> views_of_piece(const harness::OpCase& built, std::vector<TensorView> views,
                                              const Piece& piece) {
  for (std::size_t i = 0; i < views.size(); ++i) {
    const int dimension = token_dimension(built.op->args[i]);
    if (dimension < 0 || views[i].is_absent()) continue;
    views[i].data = static_cast<std::byte*>(views[i].data) +
                    piece.first * views[i].strides[dimension] * bits_of(views[i].dtype) / 8;
    views[i].shape[dimension] = piece.count;
  }
  return views;
}

/// Runs the pieces one after the other, on the CPU. `run.views` are the whole arguments, as run_case leaves them.
inline harness::WatchedRun run_pieces(const harness::OpCase& built, const AnyPlan& plan,
                                      const std::vector<Piece>& pieces) {
  harness::WatchedRun run;
  run.views.resize(built.args.size());
  run.blocks.resize(built.args.size());
  for (std::size_t i = 0; i < built.args.size(); ++i) {
    const harness::Argument& argument = built.args[i];
    if (argument.presence != harness::Presence::given) continue;
    run.views[i] = argument.view;
    const Role role = built.op->args[i].role;
    if (!is_written(role)) continue;
    if (harness::is_inout(role)) {
      run.blocks[i] = harness::GuardedBlock(argument.block.size());
      std::memcpy(run.blocks[i].data(), argument.block.data(), static_cast<std::size_t>(argument.block.size()));
    } else {
      run.blocks[i] = harness::GuardedBlock(harness::span_bytes(argument.view), harness::kPoisons[0]);
    }
    run.views[i].data = run.blocks[i].data();
  }
  const auto workspace = harness::PlanWorkspace::create(plan);
  if (!workspace.ok()) {
    run.status = workspace.status();
    return run;
  }
  for (const Piece& piece : pieces) {
    run.status = run_op(plan, views_of_piece(built, run.views, piece), workspace->get());
    if (!run.status.ok()) return run;
  }
  return run;
}

}  // namespace fathom::test
