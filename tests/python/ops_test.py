"""Plans, calls and the op functions, on NumPy arrays; and the small functions around them."""

import ast
import inspect
import json
import pathlib
import subprocess
import sys
import threading
import timeit

import pytest

np = pytest.importorskip("numpy")
ml_dtypes = pytest.importorskip("ml_dtypes")
import fathom  # noqa: E402
from fathom import reference as ref  # noqa: E402


@pytest.fixture
def selection():
    scores = np.array([[1, 4, 4, 2], [-1, -3, -2, -4]], np.float32)
    return fathom.plan("select_topk", num_tokens=2, num_scores=4, topk=2), scores, np.full((2, 2), 77, np.int32)


def attend_arrays(rng, tokens=3, heads=4, width=20):
    pages = fathom.quantize_kv(rng.standard_normal((4, 16, 512), dtype=np.float32))
    raw = np.lib.stride_tricks.as_strided(pages, (4, 16 * 584), (pages.strides[0], 1))
    return dict(
        q=rng.standard_normal((tokens, heads, 512)).astype(ml_dtypes.bfloat16),
        window_cache=raw,
        window_indices=rng.integers(-1, 64, (tokens, width), dtype=np.int32),
        window_rows="list",
        window_page_size=16,
    ), pages


def test_every_op_has_a_function_with_its_documentation():
    assert fathom.ops()[0] == "linear" and "layer" in fathom.ops()
    for name in fathom.ops():
        function = getattr(fathom, name)
        contract = fathom.op(name)
        assert function.__name__ == name and contract.summary in function.__doc__
        for arg in contract.args:
            assert arg.keyword in function.__signature__.parameters and arg.doc in function.__doc__
    with pytest.raises(AttributeError):
        fathom.attention_is_all_you_need
    assert "attend" in dir(fathom)


def test_a_plan_runs(selection):
    plan, scores, picks = selection
    assert plan.op.name == "select_topk" and plan.implementation
    plan(scores=scores, topk_entries=picks)
    assert picks.tolist() == [[1, 2], [0, 2]]
    call = plan.bind(scores=scores, topk_entries=picks)
    scores[0] = [9, 0, 0, 8]
    call()
    assert picks[0].tolist() == [0, 3]
    # Arguments of an earlier run do not stay.
    lengths = np.array([1, 1], np.int32)
    plan(scores=scores, lengths=lengths, topk_entries=picks)
    assert picks.tolist() == [[0, -1], [0, -1]]
    plan(scores=scores, topk_entries=picks)
    assert picks.tolist() == [[0, 3], [0, 2]]
    plan(scores=scores, lengths=lengths, topk_entries=picks)
    plan(scores=scores, lengths=None, topk_entries=picks)
    assert picks.tolist() == [[0, 3], [0, 2]]


@pytest.mark.parametrize(
    "bend, error, sentence",
    [
        (lambda a: a.update(scores=a["scores"][:, :3]), ValueError, r"scores has shape \[2, 3\]"),
        (lambda a: a.update(scores=a["scores"].astype(np.float64)), ValueError, "float64"),
        (lambda a: a.update(scores=a["scores"].astype(np.int32)), ValueError, "i32"),
        (lambda a: a.pop("scores"), ValueError, "scores"),
        (lambda a: a.update(score=a["scores"]), TypeError, "no argument score"),
        (lambda a: a.update(scores="text"), TypeError, "no array"),
        (lambda a: a.update(topk_entries=bytes(16)), ValueError, "read-only"),
        (lambda a: a.update(scores=a["scores"].astype(">f4")), ValueError, "big-endian"),
        (lambda a: a.update(scores=a["scores"].ravel().tobytes()), ValueError, "u8"),
    ],
)
def test_wrong_arguments_are_errors_and_nothing_is_written(selection, bend, error, sentence):
    plan, scores, picks = selection
    arrays = dict(scores=scores, topk_entries=picks)
    bend(arrays)
    with pytest.raises(error, match=sentence):
        plan(**arrays)
    assert (picks == 77).all()
    plan(scores=scores, topk_entries=picks)
    assert picks.tolist() == [[1, 2], [0, 2]]


def test_wrong_plans_are_errors():
    for op, fields, error, sentence in [
        ("attention", {}, ValueError, "attention"),
        ("attend", dict(heads=4), ValueError, "heads"),
        ("attend", dict(num_heads=4, head_dim=100), ValueError, "value_dim is 512"),
        ("attend", dict(num_heads=4, force="cuda:sm17"), NotImplementedError, "cuda:sm17"),
        ("select_topk", dict(topk=0), ValueError, "topk"),
    ]:
        with pytest.raises(error, match=sentence):
            fathom.plan(op, **fields)
    with pytest.raises(NotImplementedError, match="tpu"):
        fathom.plan("select_topk", num_scores=4, topk=2, device="tpu")


def test_supported_says_which_or_why_not():
    assert fathom.supported("attend", num_heads=64) == (True, fathom.plan("attend", num_heads=64).implementation)
    assert fathom.supported("attend", num_heads=64, force="reference") == (True, "reference")
    for op, fields, why in [
        ("attend", dict(num_heads=64, head_dim=100), "value_dim"),
        ("attend", dict(heads=1), "heads"),
        ("flash", {}, "no op"),
        ("attend", dict(num_heads=64, device="tpu"), "tpu"),
        ("attend", dict(num_heads=64, force="cuda:sm17"), "cuda:sm17"),
        ("attend", dict(num_heads=64, window_format="kv_e4m3_f32"), "576"),
    ]:
        answer, reason = fathom.supported(op, **fields)
        assert answer is False and why in reason


def test_attend_infers_its_problem_and_makes_its_outputs():
    rng = np.random.default_rng(0)
    arrays, pages = attend_arrays(rng)
    out, lse = fathom.attend(**arrays, lse=True)
    assert out.dtype == ml_dtypes.bfloat16 and out.shape == (3, 4, 512) and lse.dtype == np.float32
    rows = fathom.dequantize_kv(pages).reshape(-1, 512)
    for t in range(3):
        picked = arrays["window_indices"][t]
        want, want_lse = ref.attend(
            arrays["q"][t : t + 1].astype(np.float64),
            rows[picked[picked >= 0]].astype(np.float64),
            np.ones((1, (picked >= 0).sum()), bool),
            None,
        )
        np.testing.assert_allclose(out[t].astype(float), want[0], rtol=2e-2, atol=2e-2)
        np.testing.assert_allclose(lse[t], want_lse[0], rtol=1e-5)
    assert fathom.attend(**arrays).tobytes() == out.tobytes()
    given = np.empty_like(out)
    assert fathom.attend(**arrays, out=given) is given and given.tobytes() == out.tobytes()
    assert fathom.attend(**arrays, out_dtype="f32").dtype == np.float32
    assert fathom.attend(**arrays, force="reference", out_dtype=np.float32).shape == out.shape


def test_attend_takes_raw_queries_and_gives_codes():
    rng = np.random.default_rng(5)
    arrays, _ = attend_arrays(rng)
    tokens, heads, dim = arrays["q"].shape
    angles = rng.standard_normal((9, 32)).astype(np.float32)
    rope_table = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    turn = {"rope_table": rope_table, "positions": np.arange(tokens, dtype=np.int32) * 4, "q_form": "raw"}
    plain = fathom.attend(**arrays, **turn)
    turned = fathom.attend(**arrays, out_form="unrotated", **turn)
    assert plain[..., :448].tobytes() == turned[..., :448].tobytes() and plain.tobytes() != turned.tobytes()
    turn["split"] = "fixed"
    codes, scale = fathom.attend(**arrays, out_form="e4m3", out_dtype="e4m3", out_scale=True, **turn)
    assert codes.dtype == ml_dtypes.float8_e4m3fn and scale.shape == (tokens, heads, dim // 128)
    values = codes.astype(np.float32) * np.exp2(scale.view(np.uint8).astype(np.float32) - 127).repeat(128, axis=2)
    np.testing.assert_allclose(values, turned.astype(np.float32), rtol=2**-4, atol=1e-4)
    with pytest.raises(ValueError, match="rope_table is missing"):
        fathom.attend(**arrays, q_form="raw")


def test_plans_are_kept_by_capacity():
    from fathom import _ops

    assert [_ops.capacity(count) for count in (0, 1, 2, 3, 4, 5, 1000)] == [1, 1, 2, 4, 4, 8, 1024]
    rng = np.random.default_rng(6)
    _ops.cached_plan.cache_clear()
    for count in (0, 9, 12, 16, 11):
        scores = rng.standard_normal((count, 30)).astype(np.float32)
        picks = fathom.select_topk(scores=scores, topk=3)
        np.testing.assert_array_equal(picks, np.sort(np.argsort(-scores, axis=1)[:, :3], axis=1))
    assert _ops.cached_plan.cache_info().misses == 2
    with pytest.raises(ValueError, match="at most 4"):
        fathom.select_topk(scores=scores, topk=3, num_tokens=4)


def test_convenience_names_what_it_does_not_know():
    arrays, _ = attend_arrays(np.random.default_rng(0))
    with pytest.raises(TypeError, match="neither an argument nor a field sinks"):
        fathom.attend(**arrays, sinks=np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="only optional outputs"):
        fathom.attend(**arrays, attn_sink=True)
    with pytest.raises(ValueError, match="attn_sink has shape"):
        fathom.attend(**arrays, attn_sink=np.zeros(5, np.float32))


def test_linear_and_its_dtypes():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 256)).astype(ml_dtypes.bfloat16)
    weight = rng.standard_normal((128, 256)).astype(ml_dtypes.bfloat16)
    contract = fathom.op("linear")
    names = [arg.keyword for arg in contract.args]
    assert names[:2] == ["x", "weight"]
    y = fathom.linear(x=x, weight=weight)
    np.testing.assert_allclose(y.astype(float), x.astype(float) @ weight.astype(float).T, rtol=1e-2, atol=0.2)


def test_views():
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    part = fathom.view(whole[::2, 1:3])
    assert part.shape == (2, 2) and part.strides == (12, 1) and part.dtype == "f32"
    assert fathom.view(part) is part
    assert fathom.view(np.zeros((2, 3), np.uint16), "bf16").dtype == "bf16"
    assert fathom.view(np.zeros((2, 3), np.int8), "u8").shape == (2, 3)
    assert fathom.view(bytearray(24), "f32", (2, 3)).strides == (3, 1)
    assert fathom.view(memoryview(whole)).shape == (4, 6)
    for kind, name in [
        (ml_dtypes.bfloat16, "bf16"),
        (ml_dtypes.float8_e4m3fn, "e4m3"),
        (ml_dtypes.float8_e8m0fnu, "ue8m0"),
    ]:
        assert fathom.view(np.zeros(4, kind)).dtype == name
    for array, dtype, shape in [
        (whole, "bf16", None),
        (bytearray(23), "f32", (2, 3)),
        (whole.astype(np.float64), None, None),
        (whole[:, ::2], None, (12,)),
        (np.zeros((1,) * 5, np.float32), None, None),
        (np.float32(1), None, None),
    ]:
        with pytest.raises((ValueError, TypeError)):
            fathom.view(array, dtype, shape)
    frozen = np.zeros(3, np.float32)
    frozen.flags.writeable = False
    assert fathom.view(frozen).read_only


def test_views_become_arrays_of_the_same_memory():
    for kind in (
        np.float32,
        np.int32,
        np.int64,
        np.uint8,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e8m0fnu,
    ):
        array = np.arange(1, 25).astype(kind).reshape(4, 6)[1:, ::2]
        seen = fathom.view(array).numpy()
        assert seen.dtype == array.dtype and (seen == array).all()
        array[0, 1] = 2
        assert seen[0, 1] == 2
    assert not fathom.view(bytes(4)).numpy().flags.writeable
    assert fathom.view(np.zeros((0, 3), np.float32)).numpy().shape == (0, 3)


class OnlyDLPack:
    """An array that shows nothing but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)


def test_dlpack(selection):
    plan, scores, picks = selection
    plan(scores=OnlyDLPack(scores), topk_entries=OnlyDLPack(picks))
    assert picks.tolist() == [[1, 2], [0, 2]]
    strided = fathom.view(OnlyDLPack(np.arange(12, dtype=np.int64).reshape(3, 4)[:, 1:3]))
    assert strided.shape == (3, 2) and strided.strides == (4, 1) and strided.dtype == "i64"
    with pytest.raises(ValueError, match="DLPack"):
        fathom.view(OnlyDLPack(np.zeros(3)))


def test_views_keep_their_memory():
    views = [fathom.view(np.full(1000, i, np.float32)) for i in range(50)]
    scores = fathom.view(np.arange(8, dtype=np.float32).reshape(2, 4))
    picks = np.zeros((2, 2), np.int32)
    call = fathom.plan("select_topk", num_tokens=2, num_scores=4, topk=2).bind(scores=scores, topk_entries=picks)
    del scores, views
    junk = [np.full((2, 4), -1.0, np.float32) for _ in range(100)]
    call()
    assert picks.tolist() == [[2, 3], [2, 3]] and len(junk) == 100


def test_threads_share_a_plan():
    plan = fathom.plan("select_topk", num_tokens=64, num_scores=300, topk=5)
    wrong = []

    def work(seed):
        scores = np.random.default_rng(seed).standard_normal((64, 300)).astype(np.float32)
        want = np.sort(np.argsort(-scores, axis=1)[:, :5], axis=1)
        picks = np.empty((64, 5), np.int32)
        for _ in range(20):
            picks[:] = -7
            plan(scores=scores, topk_entries=picks)
            if (picks != want).any():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- merge_state, apply_sink, quantize_kv, dequantize_kv, top_k ----


def test_merge_state_of_spec_13_2():
    q = np.array([[[1, -0.5, 2, 0.25]]])
    rows = np.array([[0.5, 1, 1.5, -1], [1, 0, -0.5, 2], [2, 1, 0.5, 0], [-1, 0.5, 1, 4]])
    parts = [ref.attend(q, rows[cut], np.ones((1, 2), bool), None) for cut in (slice(0, 2), slice(2, 4))]
    (out_a, lse_a), (out_b, lse_b) = [(out.astype(np.float32), lse.astype(np.float32)) for out, lse in parts]
    out, lse = fathom.merge_state(out_a, lse_a, out_b, lse_b)
    np.testing.assert_allclose(out[0, 0], [0.704812, 0.776834, 0.847805, 0.737620], atol=1e-6)
    assert lse[0, 0] == pytest.approx(2.409493, abs=1e-6)
    sink = np.array([0.75], np.float32)
    want = [0.592162, 0.652673, 0.712301, 0.619726]
    np.testing.assert_allclose(fathom.apply_sink(out, lse, sink)[0, 0], want, atol=1e-6)
    np.testing.assert_allclose(fathom.merge_state(out_a, lse_a, out_b, lse_b, sink)[0][0, 0], want, atol=1e-6)


def test_merge_state_of_nothing():
    out = np.ones((2, 3, 8), np.float32)
    lse = np.zeros((2, 3), np.float32)
    for empty in (-np.inf, np.inf):
        merged, total = fathom.merge_state(out, lse, 7 * out, np.full_like(lse, empty))
        assert (merged == out).all() and (total == lse).all()
    merged, total = fathom.merge_state(out, np.full_like(lse, -np.inf), out, np.full_like(lse, np.inf))
    assert (merged == 0).all() and np.isneginf(total).all()
    assert (fathom.apply_sink(out, lse, np.full(3, np.inf, np.float32)) == 0).all()
    assert (fathom.apply_sink(out, lse, np.full(3, -np.inf, np.float32)) == out).all()


def test_quantize_kv_writes_the_rows_of_an_independent_packer(golden):
    tables = ref.read_safetensors(golden / "tables.safetensors")
    rows = tables["page_rows"].reshape(-1, 512)
    for page_size in (2, 64):
        want = tables[f"pages_{page_size}"]
        pages = fathom.quantize_kv(rows.reshape(-1, page_size, 512))
        assert pages.shape == (256 // page_size, page_size, 1, 584) and pages.strides[0] == want.shape[1]
        got = np.lib.stride_tricks.as_strided(pages, want.shape, (want.shape[1], 1))
        assert np.mean(got != want) < 1e-3  # scale bytes of near-zero tiles differ (spec 7.6)
        back = fathom.dequantize_kv(pages)
        nope = ref.fake_q8(rows[:, :448], 64)
        np.testing.assert_array_equal(back.reshape(-1, 512), np.concatenate([nope, ref.round_bf16(rows[:, 448:])], 1))


@pytest.mark.parametrize(
    "layout, dim, width", [("v4_fp8", 512, 584), ("v32_fp8", 576, 656), ("bf16", 512, 1024), ("bf16", 576, 1152)]
)
def test_layouts_come_back(layout, dim, width):
    values = np.random.default_rng(3).standard_normal((3, 5, 1, dim)).astype(np.float32)
    pages = fathom.quantize_kv(values, layout)
    assert pages.shape == (3, 5, 1, width)
    back = fathom.dequantize_kv(pages, layout)
    assert np.linalg.norm(back - values[:, :, 0]) < 0.03 * np.linalg.norm(values)
    again = fathom.dequantize_kv(fathom.quantize_kv(back, layout), layout, dtype="bf16")
    assert (again.astype(np.float32) == back).all()
    with pytest.raises(ValueError, match="expected"):
        fathom.dequantize_kv(pages[..., :-8], layout)
    with pytest.raises(ValueError):
        fathom.quantize_kv(values[..., :100], "v4_fp8")
    assert fathom.quantize_kv(values[:0], layout).shape[0] == 0


def test_top_k():
    nan, inf = np.nan, np.inf
    scores = np.array([[1, 4, 4, 2], [nan, -3, -2, -inf]], np.float32)
    values, columns = fathom.top_k(scores, 2)
    assert columns.tolist() == [[1, 2], [1, 2]] and values.tolist() == [[4, 4], [-3, -2]]
    values, columns = fathom.top_k(scores, 3, sorted=True)
    assert columns.tolist() == [[1, 2, 3], [2, 1, 3]] and values.tolist() == [[4, 4, 2], [-2, -3, -inf]]
    values, columns = fathom.top_k(scores, 3, lengths=np.array([1, 2], np.int32), sorted=True)
    assert columns.tolist() == [[0, -1, -1], [1, 0, -1]]
    assert values[0].tolist() == [1, -inf, -inf] and np.isnan(values[1, 1]) and values[1, 2] == -inf
    for k in (0, -1, 1 << 30):
        with pytest.raises(ValueError, match="k is"):
            fathom.top_k(scores, k)
    rng = np.random.default_rng(4)
    many = rng.standard_normal((7, 1000)).astype(np.float32)
    values, columns = fathom.top_k(many, 50, sorted=True)
    np.testing.assert_array_equal(values, -np.sort(-many, axis=1)[:, :50])
    np.testing.assert_array_equal(values, np.take_along_axis(many, columns, 1))


# ---- The installation ----


def python(code, *options):
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_but_the_standard_library_is_imported():
    """And a run works without NumPy: in and out are buffers of the standard library."""
    folder = str(pathlib.Path(fathom.__file__).parents[1])
    out = python(f"""
import sys
sys.modules.update(numpy=None, torch=None, ml_dtypes=None)
sys.path.insert(0, {folder!r})
import fathom, array
scores, picks = array.array("f", [1, 4, 4, 2, -1, -3, -2, -4]), array.array("i", [77] * 4)
plan = fathom.plan("select_topk", num_tokens=2, num_scores=4, topk=2)
plan(scores=fathom.view(scores, shape=(2, 4)), topk_entries=fathom.view(picks, shape=(2, 2)))
print(list(picks))
try:
    fathom.select_topk(scores=fathom.view(scores, shape=(2, 4)), topk=2)
except RuntimeError as refusal:
    print(refusal)
""")
    assert out.splitlines()[0] == "[1, 2, 0, 2]" and "NumPy is not installed" in out


def test_importing_loads_no_library_and_its_absence_is_one_sentence():
    folder = str(pathlib.Path(fathom.__file__).parents[1])
    out = python(f"""
import os, sys
os.environ["FATHOM_LIBRARY"] = "/nowhere/libfathom.so"
sys.path.insert(0, {folder!r})
import fathom
print(fathom.doctor())
try:
    fathom.attend
except ImportError as problem:
    print(problem)
""")
    assert (
        "/nowhere/libfathom.so" in out
        and out.splitlines()[-2:][0] == "False"
        and "FATHOM_LIBRARY" in out.splitlines()[-1]
    )


def test_info_and_doctor(capsys):
    about = json.loads(json.dumps(fathom.info()))
    assert about["version"] == fathom.__version__ and about["ops"] == list(fathom.ops())
    assert about["devices"][0]["kind"] == "cpu" and about["devices"][0]["num_threads"] >= 1
    assert fathom.doctor() is True
    text = capsys.readouterr().out
    assert "libfathom " + fathom.__version__ in text and "numpy" in text


def test_the_module_as_a_program(capsys):
    from fathom.__main__ import main

    assert main(["info"]) == 0 and json.loads(capsys.readouterr().out)["ops"] == list(fathom.ops())
    assert main(["doctor"]) == 0 and "libfathom" in capsys.readouterr().out
    for wrong in ([], ["bench"], ["info", "--all"]):
        with pytest.raises(SystemExit) as ending:
            main(wrong)
        assert ending.value.code == 2 and "usage" in capsys.readouterr().err


def test_stubs_are_the_op_tables(tmp_path):
    from fathom.__main__ import main

    assert main(["stubs", "-o", str(tmp_path / "init.pyi")]) == 0
    tree = ast.parse((tmp_path / "init.pyi").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert set(functions) == set(fathom.ops())
    for name, node in functions.items():
        parameters = getattr(fathom, name).__signature__.parameters.values()
        assert [arg.arg for arg in node.args.kwonlyargs] == [parameter.name for parameter in parameters]
        optional = [parameter.default is not inspect.Parameter.empty for parameter in parameters]
        assert [default is not None for default in node.args.kw_defaults] == optional
        assert ast.get_docstring(node).startswith(fathom.op(name).summary)
    imported = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(fathom.__all__) <= imported


def test_call_overhead_is_printed(capsys):
    """Microseconds of one attend on one absent row, prepared in three ways. Printed, not judged."""
    q = np.zeros((1, 1, 512), ml_dtypes.bfloat16)
    out, indices, pages = np.ones_like(q), np.full((1, 1), -1, np.int32), np.zeros((1, 37440), np.uint8)
    plan = fathom.plan("attend", num_tokens=1, num_heads=1, window_rows="list", window_width=1, num_threads=1)
    arrays = dict(q=q, window_cache=pages, window_indices=indices, out=out)
    views = {name: fathom.view(array) for name, array in arrays.items()}
    call = plan.bind(**views)
    ways = {"plan.bind(...)()": call, "plan(**views)": lambda: plan(**views), "plan(**arrays)": lambda: plan(**arrays)}
    times = {way: min(timeit.repeat(run, number=2000, repeat=5)) / 2000 * 1e6 for way, run in ways.items()}
    with capsys.disabled():
        print("\nattend, nothing to do: " + ", ".join(f"{way} {time:.1f} us" for way, time in times.items()))
    assert (out == 0).all()
