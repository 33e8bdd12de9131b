// Cases of one text and many seeds, brought to equal shapes: what one captured graph may be given.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "harness/op_case.h"

namespace fathom::harness {

/// True if the two differ in extents and bytes alone: the same arguments are given, in the same types.
inline bool may_share_a_graph(const OpCase& a, const OpCase& b) {
  for (std::size_t i = 0; i < a.args.size(); ++i) {
    const Argument &x = a.args[i], &y = b.args[i];
    if (x.presence != y.presence || x.view.rank != y.view.rank || x.view.dtype != y.view.dtype) return false;
  }
  return true;
}

/// The case with its arguments in larger shapes. What is added is 0xFF: -1 in tables, NaN among numbers.
inline OpCase enlarged(const OpCase& from, const std::vector<TensorView>& shapes) {
  OpCase result;
  result.op = from.op;
  result.text = from.text;
  result.problem = from.problem;
  result.words = from.words;
  result.args.resize(from.args.size());
  for (std::size_t i = 0; i < from.args.size(); ++i) {
    const TensorView& old = from.args[i].view;
    Argument& to = result.args[i];
    to.presence = from.args[i].presence;
    to.checksum = to.block.checksum();
    if (old.is_absent()) continue;
    to.view = shapes[i];
    if (is_written(from.op->args[i].role) && !is_inout(from.op->args[i].role)) continue;
    to.block = GuardedBlock(span_bytes(to.view), std::byte{0xff});
    to.view.data = to.block.data();
    std::int64_t row = 0;
    for_each_row(old, [&](const std::byte* bytes, std::int64_t count) {
      std::int64_t rest = row++, offset = 0;
      for (int d = old.rank - 2; d >= 0; --d) {
        offset += rest % old.shape[d] * to.view.strides[d];
        rest /= old.shape[d];
      }
      std::copy_n(bytes, bytes_of(old.dtype, count), to.block.data() + bytes_of(old.dtype, offset));
    });
    to.checksum = to.block.checksum();
  }
  return result;
}

/// Up to `count` cases of `text` with different seeds that may share a graph, in shapes that hold any of them.
inline std::vector<OpCase> case_series(const std::string& op, const std::string& text, int count) {
  std::vector<OpCase> found;
  for (int seed = 1; static_cast<int>(found.size()) < count && seed <= 200 * count; ++seed) {
    auto built = make_case(op, text + " seed=" + std::to_string(seed));
    if (!built.ok()) return {};
    if (found.empty() || may_share_a_graph(found.front(), built.value())) found.push_back(std::move(built).value());
  }
  std::vector<TensorView> shapes;
  for (std::size_t i = 0; i < found.front().args.size(); ++i) {
    TensorView largest = found.front().args[i].view;
    for (const OpCase& built : found) {
      for (int d = 0; d < largest.rank; ++d) largest.shape[d] = std::max(largest.shape[d], built.args[i].view.shape[d]);
    }
    std::int64_t stride = 1;
    for (int d = largest.rank - 1; d >= 0; --d) {
      largest.strides[d] = stride;
      stride *= std::max<std::int64_t>(largest.shape[d], 1);
    }
    largest.data = nullptr;
    shapes.push_back(largest);
  }
  std::vector<OpCase> series;
  for (const OpCase& built : found) series.push_back(enlarged(built, shapes));
  return series;
}

}  // namespace fathom::harness
