"""torch tensors in every place where arrays go. Skipped where torch is not installed."""

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
import fathom  # noqa: E402


def test_an_op_takes_and_makes_tensors():
    scores = torch.tensor([[1.0, 4, 4, 2], [-1, -3, -2, -4]])
    picks = fathom.select_topk(scores=scores, topk=2)
    assert isinstance(picks, torch.Tensor) and picks.tolist() == [[1, 2], [0, 2]]
    assert fathom.select_topk(scores=scores.numpy(), topk=2).tolist() == picks.tolist()


def test_devices_are_torchs():
    fields = dict(num_heads=64, window_rows="list", window_width=128)
    assert fathom.supported("attend", device=torch.device("cpu"), **fields) == fathom.supported("attend", **fields)
    assert fathom.plan("attend", device=torch.device("cpu"), **fields).device == "cpu"


def test_dtypes_and_strides():
    for dtype, name in [
        (torch.float32, "f32"),
        (torch.bfloat16, "bf16"),
        (torch.float8_e4m3fn, "e4m3"),
        (torch.int32, "i32"),
        (torch.int64, "i64"),
        (torch.uint8, "u8"),
    ]:
        assert fathom.view(torch.empty(3, 4, dtype=dtype)).dtype == name
    assert fathom.view(torch.empty(4, 6)[::2, 1:3]).strides == (12, 1)
    assert fathom.view(torch.empty(2, 3, dtype=torch.int8), "u8").shape == (2, 3)
    with pytest.raises(ValueError, match="meta"):
        fathom.view(torch.empty(3, device="meta"))


def test_attend_equals_itself_on_numpy():
    torch.manual_seed(0)
    pages = fathom.quantize_kv(torch.randn(4, 16, 512))
    raw = pages.as_strided((4, 16 * 584), (pages.stride(0), 1))
    q = torch.randn(3, 5, 512, dtype=torch.bfloat16)
    slots = torch.randint(-1, 64, (3, 20), dtype=torch.int32)
    out, lse = fathom.attend(
        q=q, window_cache=raw, window_indices=slots, window_rows="list", window_page_size=16, lse=True
    )
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    again = fathom.attend(
        q=fathom.view(q.view(torch.int16).numpy(), "bf16"),
        window_cache=raw.numpy(),
        window_indices=slots.numpy(),
        window_rows="list",
        window_page_size=16,
        lse=True,
        out_dtype="f32",
    )
    np.testing.assert_allclose(out.float().numpy(), again[0], rtol=1e-2)
    np.testing.assert_array_equal(lse.numpy(), again[1])


def test_the_small_functions():
    torch.manual_seed(1)
    values = torch.randn(3, 5, 512)
    pages = fathom.quantize_kv(values)
    assert pages.shape == (3, 5, 1, 584) and pages.dtype == torch.uint8
    np.testing.assert_array_equal(
        fathom.dequantize_kv(pages).numpy(), fathom.dequantize_kv(fathom.quantize_kv(values.numpy()))
    )
    assert fathom.dequantize_kv(pages, dtype="bf16").dtype == torch.bfloat16

    out, lse = torch.ones(2, 3, 8), torch.zeros(2, 3)
    merged, total = fathom.merge_state(out, lse, 7 * out, torch.full_like(lse, float("inf")))
    assert (merged == out).all() and (total == lse).all()
    assert (fathom.apply_sink(out, lse, torch.full((3,), float("inf"))) == 0).all()

    scores = torch.randn(7, 300)
    scores[1, 5], scores[2, 7], scores[3, 9] = float("nan"), float("inf"), -float("inf")
    lengths = torch.tensor([300, 10, 20, 12, 0, 3, 300], dtype=torch.int32)
    for order in (False, True):
        for cut in (None, lengths):
            got = fathom.top_k(scores, 12, lengths=cut, sorted=order)
            want = fathom.top_k(scores.numpy(), 12, lengths=None if cut is None else cut.numpy(), sorted=order)
            for a, b in zip(got, want):
                np.testing.assert_array_equal(a.numpy(), b)


def test_a_layer_on_tensors(golden):
    attention = fathom.Attention(golden / "tiny", layer=1, max_positions=512)
    cache = fathom.Cache(attention, 1, 64)
    x = torch.randn(40, attention.hidden_size, dtype=torch.bfloat16)
    with cache.step([cache.add()], [40]) as step:
        y = attention(x, step)
    assert isinstance(y, torch.Tensor) and y.dtype == torch.bfloat16 and torch.isfinite(y).all()
