#include "core/determinism.h"

namespace fathom {
namespace {

// CPU: work is split by sizes alone, and every sum runs in an order of its own (simd/words.h).
constexpr Determinism cpu(const char* op, const char* implementation = "cpu") {
  return {op, implementation, DeviceKind::cpu, Word::supported, Word::supported};
}
constexpr Determinism definition(const char* op) { return cpu(op, "reference"); }
// CUDA: sums run in a fixed order for one shape. How a shape is split, or which form of a kernel takes it, follows the
// number of tokens where the word is "not guaranteed".
constexpr Determinism cuda(const char* op, const char* implementation, Word batch_invariance,
                           const char* condition = "") {
  return {op, implementation, DeviceKind::cuda, Word::supported, batch_invariance, condition};
}

constexpr Determinism kTable[] = {
    cuda("linear", "cuda:hopper", Word::not_guaranteed),
    cuda("linear", "cuda:sm90", Word::not_guaranteed),
    cuda("linear", "cuda:sm80", Word::not_guaranteed),
    cuda("linear", "cuda:simt", Word::unverified),
    cpu("linear", "cpu:amx"),
    cpu("linear", "cpu:avx512bf16"),
    cpu("linear", "cpu:avx512"),
    cpu("linear", "cpu:avx2"),
    cpu("linear"),
    definition("linear"),
    cuda("project", "cuda:simt", Word::not_guaranteed),
    cpu("project"),
    definition("project"),
    cuda("compress", "cuda:simt", Word::not_guaranteed),
    cpu("compress"),
    definition("compress"),
    cuda("index_query", "cuda:simt", Word::not_guaranteed),
    cpu("index_query"),
    definition("index_query"),
    cuda("index", "cuda:sm90", Word::unverified),
    cuda("index", "cuda:sm80", Word::unverified),
    cuda("index", "cuda:simt", Word::unverified),
    cpu("index", "cpu:amx"),
    cpu("index", "cpu:avx512bf16"),
    cpu("index", "cpu:avx512"),
    cpu("index", "cpu:avx2"),
    cpu("index"),
    definition("index"),
    cuda("select_topk", "cuda:simt", Word::unverified),
    cpu("select_topk"),
    definition("select_topk"),
    cuda("attend", "cuda:sm90", Word::not_guaranteed),
    cuda("attend", "cuda:sm90", Word::supported, "split=fixed"),
    cuda("attend", "cuda:sm80", Word::not_guaranteed),
    cuda("attend", "cuda:sm80", Word::supported, "split=fixed"),
    cuda("attend", "cuda:simt", Word::supported),
    cpu("attend", "cpu:amx"),
    cpu("attend", "cpu:avx512bf16"),
    cpu("attend", "cpu:avx512"),
    cpu("attend", "cpu:avx2"),
    cpu("attend"),
    definition("attend"),
    cuda("merge_partials", "cuda:simt", Word::unverified),
    cpu("merge_partials"),
    definition("merge_partials"),
    cuda("output", "cuda:sm80", Word::not_guaranteed),
    cuda("output", "cuda:simt", Word::not_guaranteed),
    cpu("output"),
    definition("output"),
    cuda("layer", "stages", Word::not_guaranteed),
    cpu("layer", "stages"),
};

}  // namespace

std::span<const Determinism> determinism_table() noexcept { return kTable; }

}  // namespace fathom
