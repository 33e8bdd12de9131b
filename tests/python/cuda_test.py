"""The package on a GPU: torch tensors there, streams, graphs, the layer and its cache. Skipped where torch has no GPU."""

import timeit

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
import fathom  # noqa: E402
import flash_mla_test as flash  # noqa: E402
from fathom import reference  # noqa: E402

if not torch.cuda.is_available() or not fathom.info()["devices"][1:]:
    pytest.skip("torch or libfathom has no GPU here", allow_module_level=True)
GPU = torch.device("cuda:0")


def on_gpu(array, dtype=None):
    return flash._torch_tensor(np.ascontiguousarray(array), dtype).to(GPU)


def pages_on_gpu(pages):
    """FlashMLA's container with its page stride."""
    stride, (count, _, _, width) = pages.strides[0], pages.shape
    room = torch.zeros(count, stride, dtype=torch.uint8, device=GPU)
    result = room.as_strided(pages.shape, (stride, width, width, 1))
    result.copy_(torch.from_numpy(pages.copy()))
    return result


def decode_on_gpu(case, **changes):
    given = {
        name: None if case.get(name) is None else on_gpu(case[name])
        for name in ("indices", "sink", "extra_indices", "lengths", "extra_lengths")
    }
    call = dict(
        q=on_gpu(case["q"], "bf16"),
        k_cache=pages_on_gpu(case["cache"]),
        block_table=None,
        cache_seqlens=None,
        head_dim_v=512,
        tile_scheduler_metadata=flash.META,
        is_fp8_kvcache=True,
        indices=given["indices"],
        attn_sink=given["sink"],
        extra_k_cache=None if case.get("extra_cache") is None else pages_on_gpu(case["extra_cache"]),
        extra_indices_in_kvcache=given["extra_indices"],
        topk_length=given["lengths"],
        extra_topk_length=given["extra_lengths"],
    )
    call.update(changes)
    return flash.flash_mla.flash_mla_with_kvcache(**call)


@pytest.mark.parametrize("name", flash.CASES)
def test_flash_mla_decode(name):
    case = flash.decode_case(3, **flash.CASES[name])
    out, lse = decode_on_gpu(case)
    assert out.device == lse.device == GPU
    flash.agrees(out.float().cpu().numpy(), lse.cpu().numpy(), *flash.expect_decode(case))


def test_flash_mla_on_a_stream_of_torch():
    """Inputs made by work that is still queued on a side stream: a launch on any other stream would read zeros."""
    case = flash.decode_case(5, extra_page=3, extra_width=33)
    want = [result.cpu() for result in decode_on_gpu(case)]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        late = on_gpu(case["q"], "bf16")
        q = torch.zeros_like(late)
        torch.cuda._sleep(50_000_000)
        q.copy_(late)
        got = decode_on_gpu(case, q=q)
        got = [result.cpu() for result in got]
    for a, b in zip(got, want):
        assert torch.equal(a, b)


def test_ops_take_and_make_tensors_there():
    scores = torch.tensor([[1.0, 4, 4, 2], [-1, -3, -2, -4]], device=GPU)
    picks = fathom.select_topk(scores=scores, topk=2)
    assert picks.device == GPU and picks.tolist() == [[1, 2], [0, 2]]
    values, columns = fathom.top_k(scores, 3, sorted=True)
    assert columns.tolist() == [[1, 2, 3], [0, 2, 1]] and values[0].tolist() == [4, 4, 2]
    with pytest.raises(ValueError):
        fathom.select_topk(scores=scores, topk=2, topk_entries=torch.empty(2, 2, dtype=torch.int32))


def test_small_functions_there():
    torch.manual_seed(0)
    values = torch.randn(3, 5, 512, device=GPU)
    pages = fathom.quantize_kv(values)
    host = fathom.quantize_kv(values.cpu())
    assert pages.device == GPU and pages.stride() == host.stride() and torch.equal(pages.cpu(), host)
    assert torch.equal(fathom.dequantize_kv(pages).cpu(), fathom.dequantize_kv(host))
    out, lse = torch.randn(2, 3, 8, device=GPU), torch.randn(2, 3, device=GPU)
    merged, total = fathom.merge_state(out, lse, 7 * out, torch.full_like(lse, float("inf")))
    torch.testing.assert_close(merged, out)
    torch.testing.assert_close(total, lse)


class CudaArray:
    """What CuPy and Numba give."""

    def __init__(self, tensor, kind):
        self.kept = tensor
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "typestr": kind,
            "data": (tensor.data_ptr(), False),
            "strides": tuple(stride * tensor.element_size() for stride in tensor.stride()),
        }


def test_cuda_arrays_and_dlpack():
    scores = torch.randn(3, 50, device=GPU)
    want = fathom.select_topk(scores=scores, topk=5)
    picks = torch.empty(3, 5, dtype=torch.int32, device=GPU)
    fathom.select_topk(scores=CudaArray(scores, "<f4"), topk=5, topk_entries=CudaArray(picks, "<i4"))
    torch.cuda.synchronize()
    assert torch.equal(picks, want)
    with pytest.raises(RuntimeError, match="give every output"):
        fathom.select_topk(scores=CudaArray(scores, "<f4"), topk=5)

    class Exchanged:
        __dlpack__ = scores.__dlpack__

    assert fathom.view(Exchanged()).tensor.data == scores.data_ptr()


def test_a_bound_plan_in_a_graph():
    torch.manual_seed(0)
    pages = fathom.quantize_kv(torch.randn(4, 16, 512, device=GPU))
    raw = pages.as_strided((4, 16 * 584), (pages.stride(0), 1))
    q = torch.randn(3, 5, 512, dtype=torch.bfloat16, device=GPU)
    slots = torch.randint(-1, 64, (3, 20), dtype=torch.int32, device=GPU)
    out = torch.empty_like(q)
    fields = dict(num_tokens=3, num_heads=5, window_rows="list", window_width=20, window_page_size=16)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call = fathom.plan("attend", device=GPU, **fields).bind(q=q, window_cache=raw, window_indices=slots, out=out)
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        call()
    for seed in range(3):
        torch.manual_seed(seed)
        q.copy_(torch.randn(3, 5, 512, device=GPU))
        out.zero_()
        graph.replay()
        want = fathom.attend(q=q, window_cache=raw, window_indices=slots, window_rows="list", window_page_size=16)
        assert torch.equal(out, want) and out.abs().max() > 0


def test_supported_asks_the_gpu():
    fields = dict(num_heads=64, window_rows="list", window_width=128)
    answer = fathom.supported("attend", device=GPU, **fields)
    assert answer == (True, fathom.plan("attend", device=GPU, **fields).implementation)
    assert answer[1].startswith("cuda:")
    answer, why = fathom.supported("attend", device="cuda", num_heads=64, head_dim=100)
    assert not answer and "head_dim" in why


def test_call_overhead_is_printed(capsys):
    """Microseconds that the caller's thread spends on one attend, while the GPU keeps up. Printed, not judged."""
    q, out = torch.zeros(2, 1, 1, 512, dtype=torch.bfloat16, device=GPU)
    slots = torch.full((1, 1), -1, dtype=torch.int32, device=GPU)
    pages = torch.zeros(1, 37440, dtype=torch.uint8, device=GPU)
    plan = fathom.plan("attend", device=GPU, num_tokens=1, num_heads=1, window_rows="list", window_width=1)
    call = plan.bind(q=q, window_cache=pages, window_indices=slots, out=out)
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        times.append(timeit.timeit(call, number=50) / 50 * 1e6)
    torch.cuda.synchronize()
    with capsys.disabled():
        print(f"\nattend on {plan.implementation}, nothing to do: plan.bind(...)() {min(times):.1f} us, launch and all")


@pytest.mark.parametrize("numerics", ["exact", "served"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_layer_of_a_checkpoint(golden, layer, numerics):
    """The golden output: prefill, then tokens one by one, a fork, a roll back and a snapshot in between.

    The golden picks of served CSA come of bf16 scores, whose ties fall either way: there the reference on our own picks.
    """
    vectors = fathom.Checkpoint(golden / "tiny" / f"expected_{numerics}.safetensors")
    hidden = torch.from_numpy(np.array(vectors[f"layers.{layer}.hidden"].numpy(), np.float32))
    want = torch.from_numpy(np.array(vectors[f"layers.{layer}.output"].numpy(), np.float32))
    x = hidden.to(GPU, torch.float32 if numerics == "exact" else torch.bfloat16)
    attention = fathom.Attention(
        golden / "tiny", layer=layer, numerics=numerics, max_tokens=len(x), max_positions=1024, device="cuda"
    )
    assert attention.plan.device == "cuda:0"
    wanted = {}
    if layer == 1:
        wanted["topk_entries"] = torch.full(
            (len(x), int(attention.fields["index_topk"])), -1, dtype=torch.int32, device=GPU
        )

    def run(first, count, step, rows=None):
        picks = {name: table[first : first + count] for name, table in wanted.items()}
        return attention(x[first : first + count] if rows is None else rows, step, **picks)

    cache = fathom.Cache(attention, sequences=4, tokens=len(x) + 8, rollback_tokens=4)
    first = len(x) - 6
    sequence = cache.add()
    with cache.step([sequence], [first]) as step:
        parts = [run(0, first, step)]
    abandoned = cache.fork(sequence)
    with cache.step([sequence, abandoned], [1, 2]) as step:
        parts.append(run(first, 3, step, torch.cat([x[first : first + 1], x[:2]]))[:1])
    with cache.step([sequence], [2]) as step:
        attention(x[:2], step)
    cache.roll_back(sequence, 2)
    sequence = cache.restore(cache.snapshot(sequence))
    for t in range(first + 1, len(x)):
        with cache.step([sequence], [1]) as step:
            parts.append(run(t, 1, step))
    got = torch.cat(parts).float().cpu()
    if wanted and numerics == "served":
        config = reference.Config.read(golden / "tiny" / "config.json")
        tensors = reference.read_safetensors(golden / "tiny" / "model.safetensors")
        weights = reference.layer_weights(tensors, f"layers.{layer}.attn.")
        picks = [row[row >= 0] for row in wanted["topk_entries"].cpu().numpy()]
        result = reference.attention_layer(config, layer, weights, x.float().cpu().numpy(), "served", picks)
        want = torch.from_numpy(result.output.astype(np.float32))
        differing = sum(len(set(a) ^ set(b)) for a, b in zip(picks, result.picks)) / 2
        assert differing < 0.005 * sum(map(len, picks))
    error = ((got - want).norm() / want.norm()).item()
    print(f"layer {layer} {numerics}: relative L2 error {error:.2g}")
    assert error < (1e-5 if numerics == "exact" else 0.008)
    assert cache.pages().tensor.device == 1


def test_a_layer_refuses_what_lies_elsewhere(golden):
    attention = fathom.Attention(golden / "tiny", layer=1, numerics="exact", max_positions=64, device="cuda:0")
    cache = fathom.Cache(attention, 1, 64)
    x = torch.randn(4, attention.hidden_size)
    with pytest.raises(ValueError):
        with cache.step([cache.add()], [4]) as step:
            attention(x, step)
    with torch.cuda.stream(torch.cuda.Stream()), pytest.raises(ValueError, match="another stream"):
        with cache.step([0], [4]) as step:
            attention(x.to(GPU), step)
    host = fathom.Attention(golden / "tiny", layer=1, numerics="exact", max_positions=64)
    with pytest.raises(ValueError, match="device"):
        fathom.Cache([attention, host], 1, 64)


def test_the_reference_agrees(golden):
    config = reference.Config.read(golden / "tiny" / "config.json")
    weights = reference.layer_weights(
        reference.read_safetensors(golden / "tiny" / "model.safetensors"), "layers.1.attn."
    )
    x = np.random.default_rng(3).standard_normal((50, config.dim)).astype(np.float32)
    want = reference.attention_layer(config, 1, weights, x).output
    attention = fathom.Attention(golden / "tiny", layer=1, numerics="exact", max_positions=64, device="cuda")
    cache = fathom.Cache(attention, 1, 64)
    with cache.step([cache.add()], [50]) as step:
        got = attention(torch.from_numpy(x).to(GPU), step)
    np.testing.assert_allclose(got.cpu().numpy(), want, atol=2e-4)
