"""fathom.compat.flash_mla on CPU tensors: a NumPy stand-in always, torch's own where torch is installed."""

import sys

import pytest

np = pytest.importorskip("numpy")
ml_dtypes = pytest.importorskip("ml_dtypes")
import fathom  # noqa: E402
import stand_in  # noqa: E402
from fathom.compat import flash_mla  # noqa: E402

META = flash_mla.get_mla_metadata(1, causal=False)[0]


def _torch_tensor(array, dtype=None):
    import torch

    if dtype == "bf16":
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.asarray(array, dtype))


@pytest.fixture(params=["stand_in", "torch"])
def tensor(request):
    """Makes tensors of NumPy arrays; results come back through `plain`."""
    if request.param == "stand_in":
        return stand_in.tensor
    pytest.importorskip("torch")
    return _torch_tensor


def plain(result):
    if isinstance(result, stand_in.Tensor):
        return result.array.astype(np.float32)
    return result.float().numpy()


def bf16(rng, *shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(ml_dtypes.bfloat16)


def expected(q, row_lists, sink, scale, value_dim=512):
    """float64, row by row: q [T, H, D], one [n, D] of rows for each token. (out, max_logits, lse)"""
    out = np.zeros(q.shape[:2] + (value_dim,))
    top, lse = np.full(q.shape[:2], -np.inf), np.full(q.shape[:2], np.inf)
    for t, rows in enumerate(row_lists):
        if len(rows) == 0:
            continue
        logits = q[t].astype(np.float64) @ rows.astype(np.float64).T * scale
        top[t] = logits.max(1)
        p = np.exp(logits - top[t][:, None])
        lse[t] = top[t] + np.log(p.sum(1))
        with np.errstate(over="ignore"):
            joined = p.sum(1) + (0 if sink is None else np.exp(sink.astype(np.float64) - top[t]))
        out[t] = p @ rows[:, :value_dim] / joined[:, None]
    return out, top, lse


def agrees(out, lse, want_out, want_lse):
    """FlashMLA's own tolerances for sparse decode (spec 10.2), which are meant for rows of its own size: 0.1 randn."""
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, want_out, atol=1e-3, rtol=2.01 / 128)
    assert (np.isposinf(lse) == np.isposinf(want_lse)).all()
    seen = ~np.isposinf(want_lse)
    np.testing.assert_allclose(lse[seen], want_lse[seen], atol=1e-6, rtol=8.01 / 65536)


def decode_case(
    seed,
    *,
    dim=512,
    batch=3,
    queries=2,
    heads=5,
    page=7,
    width=19,
    extra_page=0,
    extra_width=0,
    lengths=True,
    sink=True,
):
    rng = np.random.default_rng(seed)
    layout = "v4_fp8" if dim == 512 else "v32_fp8"
    case = {"q": bf16(rng, batch, queries, heads, dim, scale=10), "sink": None}
    if sink:
        case["sink"] = rng.standard_normal(heads).astype(np.float32) * 2
        case["sink"][:2] = -np.inf, np.inf
    for name, size, count in (("", page, width), ("extra_", extra_page, extra_width)):
        if not size:
            continue
        pages = 5
        cache = fathom.quantize_kv(np.float32(0.1) * rng.standard_normal((pages, size, dim), dtype=np.float32), layout)
        case[name + "cache"] = cache
        case[name + "rows"] = fathom.dequantize_kv(cache, layout).reshape(-1, dim).copy()
        indices = rng.integers(0, pages * size, (batch, queries, count), dtype=np.int32)
        indices[rng.random(indices.shape) < 0.2] = -1
        case[name + "indices"] = indices
        case[name + "lengths"] = rng.integers(0, count + 1, batch, dtype=np.int32) if lengths else None
    if lengths:  # behind the lengths: garbage for one sequence, good slots that must not count for the next
        for name in ("", "extra_"):
            if name + "indices" in case:
                for b, length in list(enumerate(case[name + "lengths"]))[::2]:
                    case[name + "indices"][b, :, length:] = 2**31 - 1
    return case


def run_decode(case, make, **changes):
    def tensor(array, dtype=None):
        return make(array) if make is stand_in.Tensor else make(array, dtype)

    def given(name, dtype=None):
        return None if case.get(name) is None else tensor(case[name], dtype)

    cache = {name: case.get(name) for name in ("cache", "extra_cache")}
    call = dict(
        q=tensor(case["q"], "bf16"),
        k_cache=tensor(cache["cache"]),
        block_table=None,
        cache_seqlens=None,
        head_dim_v=512,
        tile_scheduler_metadata=META,
        is_fp8_kvcache=True,
        indices=given("indices"),
        attn_sink=given("sink"),
        extra_k_cache=given("extra_cache"),
        extra_indices_in_kvcache=given("extra_indices"),
        topk_length=given("lengths"),
        extra_topk_length=given("extra_lengths"),
    )
    call.update(changes)
    out, lse = flash_mla.flash_mla_with_kvcache(**call)
    return plain(out), plain(lse)


def expect_decode(case, scale=None):
    batch, queries, heads, dim = case["q"].shape
    lists = []
    for b in range(batch):
        for s in range(queries):
            rows = []
            for name in ("", "extra_"):
                if name + "indices" in case:
                    lengths = case[name + "lengths"]
                    picked = case[name + "indices"][b, s][: None if lengths is None else lengths[b]]
                    inside = picked[(picked >= 0) & (picked < len(case[name + "rows"]))]
                    rows.append(case[name + "rows"][inside])
            lists.append(np.concatenate(rows))
    q = case["q"].reshape(batch * queries, heads, dim)
    out, _, lse = expected(q, lists, case["sink"], dim**-0.5 if scale is None else scale)
    return out.reshape(batch, queries, heads, 512), lse.reshape(batch, queries, heads).transpose(0, 2, 1)


CASES = {
    "v4": {},
    "v4 two caches": dict(extra_page=3, extra_width=33),
    "v4 one query": dict(queries=1, extra_page=2, extra_width=9),
    "v4 no lengths": dict(lengths=False, extra_page=3, extra_width=5),
    "v4 no sink": dict(sink=False),
    "v4 one head, one row": dict(heads=1, sink=False, width=1, page=1, batch=1, queries=1, lengths=False),
    "v4 128 heads": dict(heads=128, batch=1),
    "v4 pages of 64": dict(page=64, width=128, extra_page=2, extra_width=64),
    "v3.2": dict(dim=576, lengths=False, sink=False),
    "v3.2 sink and lengths": dict(dim=576),
}


@pytest.mark.parametrize("name", CASES)
def test_decode(name, tensor):
    for seed in range(3):
        case = decode_case(seed, **CASES[name])
        agrees(*run_decode(case, tensor), *expect_decode(case))


def test_sampled_decode_cases(tensor):
    """200 cases of random sizes, as many as issue 4 asks for on CPU tensors."""
    rng = np.random.default_rng(7)
    for seed in range(200):
        dim = int(rng.choice([512, 512, 576]))
        case = decode_case(
            seed,
            dim=dim,
            batch=int(rng.integers(1, 5)),
            queries=int(rng.integers(1, 4)),
            heads=int(rng.integers(3, 20)),
            page=int(rng.choice([1, 2, 32, 64])),
            width=int(rng.integers(1, 150)),
            lengths=bool(rng.integers(2)),
            sink=bool(rng.integers(2)),
            extra_page=int(rng.choice([0, 2, 64])),
            extra_width=int(rng.integers(1, 70)),
        )
        agrees(*run_decode(case, tensor), *expect_decode(case))


def test_lonely_queries_give_zero_and_plus_infinity(tensor):
    case = decode_case(1, lengths=False)
    case["indices"][0] = -1
    case["indices"][1] = 10_000
    out, lse = run_decode(case, tensor)
    assert (out[:2] == 0).all() and np.isposinf(lse[:2]).all() and np.isfinite(lse[2]).all()
    assert lse.shape == (3, 5, 2)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, ml_dtypes.float8_e4m3fn])
def test_pages_of_any_byte_type(kind):
    case = decode_case(8, extra_page=2, extra_width=5)
    want = run_decode(case, stand_in.tensor)
    for name in ("cache", "extra_cache"):
        case[name] = np.lib.stride_tricks.as_strided(case[name].view(kind), case[name].shape, case[name].strides)
    for got, same in zip(run_decode(case, stand_in.Tensor), want):
        assert (got == same).all()


def test_softmax_scale_and_out(tensor):
    case = decode_case(2)
    target = tensor(np.full(case["q"].shape, 9.0), "bf16")
    out, lse = run_decode(case, tensor, softmax_scale=0.01, out=target)
    agrees(out, lse, *expect_decode(case, 0.01))
    assert (plain(target) == out).all()


def test_nothing_at_all(tensor):
    case = decode_case(3)
    empty = {name: case[name][:0] for name in ("q", "indices", "lengths")}
    out, lse = run_decode({**case, **empty}, tensor)
    assert out.shape == (0, 2, 5, 512) and lse.shape == (0, 5, 2)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(causal=True), "causal is True"),
        (dict(is_fp8_kvcache=False), "is_fp8_kvcache is False"),
        (dict(head_dim_v=448), "head_dim_v is 448"),
        (dict(num_splits=1), "num_splits is given"),
        (dict(tile_scheduler_metadata=None), "what get_mla_metadata gives"),
        (dict(extra_k_cache=None), "one without the other"),
        (dict(extra_k_cache=None, extra_indices_in_kvcache=None), "extra_topk_length without extra_k_cache"),
    ],
)
def test_wrong_calls_are_named_on_every_call(changes, sentence):
    case = decode_case(4, extra_page=3, extra_width=5)
    for _ in range(2):
        with pytest.raises(ValueError, match=sentence):
            run_decode(case, stand_in.tensor, **changes)


@pytest.mark.parametrize(
    "name, array, sentence",
    [
        ("q", np.zeros((3, 2, 5, 500)), "q has head dim 500"),
        ("q", np.zeros((3, 5, 512)), "q has shape"),
        ("indices", np.zeros((3, 2, 5), np.int64), "indices is i64, expected i32"),
        ("indices", np.zeros((2, 2, 5), np.int32), "indices has shape"),
        ("lengths", np.zeros(4, np.int32), "topk_length has shape"),
        ("sink", np.zeros(6, np.float32), "attn_sink has shape"),
        ("sink", np.zeros(5), "attn_sink is float64"),
        ("cache", np.zeros((4, 7, 1, 656), np.uint8), r"k_cache has shape .*584"),
        ("cache", np.zeros((4, 7, 2, 584), np.uint8), "k_cache has"),
    ],
)
def test_wrong_tensors_are_named(name, array, sentence):
    case = decode_case(5)
    case[name] = array
    with pytest.raises(ValueError, match=sentence):
        run_decode(case, stand_in.tensor)


def test_dense_attention_is_refused():
    with pytest.raises(NotImplementedError, match="indices is None"):
        run_decode(decode_case(6), stand_in.tensor, indices=None)
    for name in ("flash_attn_varlen_func", "flash_attn_varlen_qkvpacked_func", "flash_attn_varlen_kvpacked_func"):
        with pytest.raises(NotImplementedError, match=f"{name}: dense"):  # what an engine imports beside the rest
            getattr(flash_mla, name)(1, causal=True)


@pytest.mark.parametrize("dim", [512, 576])
@pytest.mark.parametrize("lengths", [False, True])
def test_sparse_prefill(dim, lengths, tensor):
    rng = np.random.default_rng(dim)
    q, kv = bf16(rng, 9, 6, dim, scale=10), bf16(rng, 40, 1, dim, scale=0.1)
    indices = rng.integers(-5, 50, (9, 1, 21), dtype=np.int32)
    indices[3] = -1
    sink = rng.standard_normal(6).astype(np.float32)
    cut = rng.integers(0, 22, 9, dtype=np.int32) if lengths else None
    out, top, lse = flash_mla.flash_mla_sparse_fwd(
        tensor(q, "bf16"),
        tensor(kv, "bf16"),
        tensor(indices),
        0.05,
        512,
        tensor(sink),
        None if cut is None else tensor(cut),
    )
    lists = []
    for t in range(9):
        picked = indices[t, 0][: None if cut is None else cut[t]]
        lists.append(kv[picked[(picked >= 0) & (picked < 40)], 0].astype(np.float32))
    want_out, want_top, want_lse = expected(q, lists, sink, 0.05)
    agrees(plain(out), plain(lse), want_out, want_lse)
    np.testing.assert_allclose(plain(top), want_top, atol=1e-6, rtol=2.01 / 65536)
    assert np.isneginf(plain(top)[3]).all() and np.isposinf(plain(lse)[3]).all()


def test_sparse_prefill_never_reads_rows_that_no_index_names(tensor):
    rng = np.random.default_rng(3)
    kv = bf16(rng, 10, 1, 512)
    kv[5:] = np.nan
    q, indices = bf16(rng, 2, 4, 512), np.array([[[0, 1, 7]], [[2, 3, 9]]], np.int32)
    out, _, lse = flash_mla.flash_mla_sparse_fwd(
        tensor(q, "bf16"), tensor(kv, "bf16"), tensor(indices), 0.04, topk_length=tensor(np.array([2, 2], np.int32))
    )
    assert np.isfinite(plain(out)).all() and np.isfinite(plain(lse)).all()


def test_sparse_prefill_of_rows_far_apart(tensor):
    if tensor is not stand_in.tensor:
        pytest.skip("strides of NumPy views")
    rng = np.random.default_rng(4)
    wide = bf16(rng, 10, 3, 512)
    q, indices = bf16(rng, 2, 4, 512), np.arange(20, dtype=np.int32).reshape(2, 1, 10)
    apart = flash_mla.flash_mla_sparse_fwd(tensor(q), stand_in.Tensor(wide[:, 1:2]), tensor(indices), 0.04)
    packed = flash_mla.flash_mla_sparse_fwd(tensor(q), tensor(wide[:, 1:2].copy()), tensor(indices), 0.04)
    for a, b in zip(apart, packed):
        assert (plain(a) == plain(b)).all()


def test_no_more_than_some_plans_are_kept():
    """Each owns a workspace, on a GPU in its memory."""
    q, kv = stand_in.tensor(np.zeros((2, 1, 512)), "bf16"), stand_in.tensor(np.zeros((3, 1, 512)), "bf16")
    for width in range(1, 100):
        flash_mla.flash_mla_sparse_fwd(q, kv, stand_in.tensor(np.full((2, 1, width), -1, np.int32)), 0.1)
    assert len({call.plan for call in flash_mla._calls.values()}) <= flash_mla._MOST_PLANS


def test_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_mla"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        fathom.compat.install()
        import flash_mla as found
        from flash_mla import flash_mla_with_kvcache, get_mla_metadata

        assert found is flash_mla and flash_mla_with_kvcache is flash_mla.flash_mla_with_kvcache
        meta, none = get_mla_metadata()
        assert isinstance(meta, found.FlashMLASchedMeta) and none is None
        fathom.compat.install()  # again
        sys.modules["flash_mla"] = sys.modules["json"] if "json" in sys.modules else sys
        with pytest.raises(RuntimeError, match="already imported"):
            fathom.compat.install()
        assert fathom.compat.install(replace=True) is flash_mla
    finally:
        for name in ("flash_mla", "flash_mla.flash_mla_interface"):
            sys.modules.pop(name, None)
