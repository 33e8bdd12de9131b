// attend and index over tables of any content: nothing outside the cache is read, absent rows stay absent, and kernel
// and definition see the same rows. The cache's unused rows are NaN, so that a wrong row shows.
#include <cmath>
#include <limits>
#include <vector>

#include "fathom/fathom.h"
#include "fuzz/targets.h"

namespace fathom::fuzz {
namespace {

constexpr int kPages = 3, kPageSize = 2, kWidth = 6, kDim = 4, kColumns = 3;

const Device& device() {
  static const Device cpu = Device::cpu(1).value();
  return cpu;
}

/// Runs with an exact workspace, so that a sanitizer sees a byte too many.
template <class Problem, class Args>
void run(const OpSpec& op, const Problem& problem, const Args& args, const char* implementation) {
  const auto plan = plan_problem(op, &problem, device(), {implementation});
  require(plan.ok(), std::string("not planned: ") + plan.status().text());
  const WorkspaceSize size = plan->workspace_size();
  std::vector<std::byte> memory(static_cast<std::size_t>(size.total() + kWorkspaceAlignment));
  void* at = memory.data();
  std::size_t space = memory.size();
  require(std::align(kWorkspaceAlignment, static_cast<std::size_t>(size.total()), at, space) != nullptr, "no room");
  const std::span<const TensorView> views(reinterpret_cast<const TensorView*>(&args),
                                          sizeof(Args) / sizeof(TensorView));
  const Status status = run_op(plan.value(), views, carve_workspace(at, size));
  require(status.ok(), std::string("refused: ") + status.text());
}

std::vector<std::int32_t> numbers(Reader& reader, std::size_t count) {
  std::vector<std::int32_t> result(count);
  for (std::int32_t& number : result) number = static_cast<std::int32_t>(reader.number());
  return result;
}

bool same(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b || std::fabs(a - b) <= 1e-4f * (1 + std::fabs(b));
}

void attend_case(Reader& reader) {
  const int tokens = 1 + reader.byte() % 3, seqs = 1 + reader.byte() % 2;
  const bool by_list = reader.byte() % 2 == 0;
  AttendProblem problem;
  problem.num_tokens = tokens;
  problem.num_seqs = seqs;
  problem.num_heads = 2;
  problem.head_dim = problem.value_dim = kDim;
  problem.q_dtype = problem.out_dtype = DType::f32;
  problem.softmax_scale = 0.5f;
  problem.window_rows = RowsBy::range;
  problem.window_format = problem.entries_format = CacheFormat::kv_f32;
  problem.window_page_size = problem.entries_page_size = kPageSize;
  problem.window_width = kWidth;
  problem.entries_rows = by_list ? RowsBy::list : RowsBy::range;
  problem.entries_width = kWidth;

  std::vector<float> cache(kPages * kPageSize * kDim, std::numeric_limits<float>::quiet_NaN()), q(tokens * 2 * kDim),
      sink{0.5f, -1.0f};
  const std::uint8_t written = reader.byte();
  for (int row = 0; row < kPages * kPageSize; ++row) {
    for (int c = 0; c < kDim; ++c) {
      if ((written >> row & 1) != 0) cache[row * kDim + c] = static_cast<float>(row * 3 + c) * 0.25f - 2;
    }
  }
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(i % 7) * 0.5f - 1;
  std::vector<std::int32_t> seq_ids = numbers(reader, tokens), begin = numbers(reader, tokens),
                            end = numbers(reader, tokens), table = numbers(reader, seqs * kColumns),
                            indices = numbers(reader, tokens * kWidth), lengths = numbers(reader, tokens),
                            entries_end = numbers(reader, tokens);
  const auto i32 = [&](const std::vector<std::int32_t>& from, std::initializer_list<std::int64_t> shape) {
    return view(from.data(), DType::i32, shape);
  };
  AttendArgs args;
  args.q = view(q.data(), DType::f32, {tokens, 2, kDim});
  args.seq_ids = i32(seq_ids, {tokens});
  const TensorView pages = view(cache.data(), DType::u8, {kPages, kPageSize * kDim * 4});
  args.window = {pages, {}, {}, i32(begin, {tokens}), i32(end, {tokens}), i32(table, {seqs, kColumns})};
  if (by_list) {
    args.entries = {pages, i32(indices, {tokens, kWidth}), i32(lengths, {tokens}), {}, {}, {}};
  } else {
    args.entries = {pages, {}, {}, {}, i32(entries_end, {tokens}), i32(table, {seqs, kColumns})};
  }
  args.attn_sink = view(sink.data(), DType::f32, {2});
  std::vector<float> out[2], lse[2];
  for (int i = 0; i < 2; ++i) {
    out[i].assign(q.size(), -7.0f);
    lse[i].assign(tokens * 2, -7.0f);
    args.out = view(out[i].data(), DType::f32, {tokens, 2, kDim});
    args.lse = view(lse[i].data(), DType::f32, {tokens, 2});
    run(*find_op("attend"), problem, args, i == 0 ? "reference" : "");
  }
  for (std::size_t i = 0; i < q.size(); ++i) require(same(out[1][i], out[0][i]), "attend: out is not the definition's");
  for (std::size_t i = 0; i < lse[0].size(); ++i)
    require(same(lse[1][i], lse[0][i]), "attend: lse is not the definition's");
}

void index_case(Reader& reader) {
  const int tokens = 1 + reader.byte() % 3, seqs = 1 + reader.byte() % 2;
  IndexProblem problem;
  problem.num_tokens = tokens;
  problem.num_seqs = seqs;
  problem.index_heads = 1;
  problem.index_dim = kDim;
  problem.topk = 1 + reader.byte() % 5;
  problem.compress_ratio = 1 + reader.byte() % 4;
  problem.format = CacheFormat::index_f32;
  problem.page_size = problem.entries_page_size = kPageSize;
  problem.max_entries = 1 + reader.byte() % 16;
  std::vector<float> keys(kPages * kPageSize * kDim), q(tokens * kDim), weights(tokens, 1.0f);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<float>(i * 7 % 11) - 5;
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(i % 5) - 2;
  const std::vector<std::int32_t> positions = numbers(reader, tokens), seq_ids = numbers(reader, tokens),
                                  table = numbers(reader, seqs * kColumns),
                                  entries_table = numbers(reader, seqs * kColumns);
  IndexArgs args;
  args.q = view(q.data(), DType::f32, {tokens, 1, kDim});
  args.weights = view(weights.data(), DType::f32, {tokens, 1});
  args.index_cache = view(keys.data(), DType::u8, {kPages, kPageSize * kDim * 4});
  args.block_table = view(table.data(), DType::i32, {seqs, kColumns});
  args.entries_block_table = view(entries_table.data(), DType::i32, {seqs, kColumns});
  args.positions = view(positions.data(), DType::i32, {tokens});
  args.seq_ids = view(seq_ids.data(), DType::i32, {tokens});
  std::vector<std::int32_t> picks[2], slots[2];
  for (int i = 0; i < 2; ++i) {
    picks[i].assign(tokens * problem.topk, -7);
    slots[i].assign(tokens * problem.topk, -7);
    args.topk_entries = view(picks[i].data(), DType::i32, {tokens, problem.topk});
    args.topk_indices = view(slots[i].data(), DType::i32, {tokens, problem.topk});
    run(*find_op("index"), problem, args, i == 0 ? "reference" : "");
  }
  // Small whole numbers: scores are exact, so picks are equal.
  require(picks[0] == picks[1], "index: picks are not the definition's");
  require(slots[0] == slots[1], "index: slots are not the definition's");
  for (std::size_t i = 0; i < picks[0].size(); ++i) {
    require(picks[0][i] >= -1 && picks[0][i] < problem.max_entries, "index: an entry out of range");
  }
}

}  // namespace

void page_tables(Input input) {
  Reader reader(input);
  for (int i = 0; i < 8 && !reader.empty(); ++i) reader.byte() % 2 == 0 ? attend_case(reader) : index_case(reader);
}

}  // namespace fathom::fuzz
