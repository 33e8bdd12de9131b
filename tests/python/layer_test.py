"""fathom.Attention and fathom.Cache against the golden vectors, fathom.reference and themselves."""

import json

import pytest

np = pytest.importorskip("numpy")
ml_dtypes = pytest.importorskip("ml_dtypes")
import fathom  # noqa: E402
from fathom import reference as ref  # noqa: E402


def relative(got, want):
    got, want = got.astype(np.float64), want.astype(np.float64)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def values(golden, model, numerics, layer, name):
    return ref.read_safetensors(golden / model / f"expected_{numerics}.safetensors")[f"layers.{layer}.{name}"]


def run(attention, cache, sequence, x, chunks):
    out, first = [], 0
    for count in chunks:
        with cache.step([sequence], [count]) as step:
            out.append(attention(x[first : first + count], step))
        first += count
    return np.concatenate(out)


@pytest.fixture
def csa(golden):
    attention = fathom.Attention(golden / "tiny", layer=1, numerics="exact", max_tokens=600, max_positions=1024)
    return (
        attention,
        fathom.Cache(attention, sequences=4, tokens=600, rollback_tokens=8),
        values(golden, "tiny", "exact", 1, "hidden"),
    )


@pytest.mark.parametrize(
    "model, numerics, layer, bound",
    [
        ("tiny", "exact", 0, 1e-5),
        ("tiny", "exact", 1, 1e-5),
        ("tiny", "exact", 2, 1e-5),
        ("tiny", "served", 0, 8e-3),
        ("tiny", "served", 2, 8e-3),
        ("tiny_fp8", "served", 0, 8e-3),
        ("tiny_fp8", "served", 1, 8e-3),
    ],
)
def test_prefill_and_decode_give_the_golden_output(golden, model, numerics, layer, bound):
    attention = fathom.Attention(golden / model, layer=layer, numerics=numerics, max_tokens=600, max_positions=1024)
    x = values(golden, model, numerics, layer, "hidden")
    if numerics == "served":
        x = x.astype(ml_dtypes.bfloat16)
    cache = fathom.Cache([attention], sequences=1, tokens=len(x))
    chunks = [len(x) - 20 - 7, 7] + [1] * 20
    out = run(attention, cache, cache.add(), x, chunks)
    assert out.dtype == (np.float32 if numerics == "exact" else ml_dtypes.bfloat16)
    assert relative(out, values(golden, model, numerics, layer, "output")) < bound


def test_served_picks_by_f32_scores_and_the_rest_is_the_references(golden):
    """The golden picks come of bf16 scores, whose ties fall either way: compare with the reference on our own picks."""
    config = ref.Config.read(golden / "tiny" / "config.json")
    weights = ref.layer_weights(ref.read_safetensors(golden / "tiny" / "model.safetensors"), "layers.1.attn.")
    x = values(golden, "tiny", "served", 1, "hidden").astype(ml_dtypes.bfloat16)
    attention = fathom.Attention(golden / "tiny", layer=1, max_tokens=600, max_positions=1024)
    cache = fathom.Cache(attention, 1, 600)
    picks = np.empty((len(x), config.index_topk), np.int32)
    with cache.step([cache.add()], [len(x)]) as step:
        out = attention(x, step, topk_entries=picks)
    own = [row[row >= 0] for row in picks]
    want = ref.attention_layer(config, 1, weights, x.astype(np.float32), "served", own)
    assert relative(out, want.output) < 8e-3
    differing = sum(len(set(a) ^ set(b)) for a, b in zip(own, want.picks)) / 2
    assert differing < 0.005 * sum(map(len, own))


def test_the_reference_agrees_on_inputs_of_its_own(golden):
    """Random hidden states, so that agreement does not rest on the golden files."""
    config = ref.Config.read(golden / "tiny" / "config.json")
    tensors = ref.read_safetensors(golden / "tiny" / "model.safetensors")
    x = np.random.default_rng(5).standard_normal((300, config.dim)).astype(np.float32)
    for layer in range(3):
        attention = fathom.Attention(golden / "tiny", layer=layer, numerics="exact", max_tokens=300, max_positions=512)
        cache = fathom.Cache(attention, 1, 300)
        want = ref.attention_layer(config, layer, ref.layer_weights(tensors, f"layers.{layer}.attn."), x)
        inside = {"attn_out": np.empty((300, config.n_heads, 512), np.float32)}
        if layer == 1:
            inside["topk_entries"] = np.empty((300, config.index_topk), np.int32)
        with cache.step([cache.add()], [300]) as step:
            out = attention(x, step, **inside)
        assert relative(out, want.output) < 1e-5
        assert relative(inside["attn_out"], want.attn_out) < 1e-5
        if layer == 1:
            assert [row[row >= 0].tolist() for row in inside["topk_entries"]] == [row.tolist() for row in want.picks]


def test_any_cut_gives_the_same_bits(csa):
    attention, cache, x = csa
    x = x[:200]
    whole = run(attention, cache, cache.add(), x, [200])
    for chunks in ([1] * 200, [3, 130, 67], [199, 1]):
        sequence = cache.add()
        assert (run(attention, cache, sequence, x, chunks) == whole).all()
        cache.remove(sequence)


def test_sequences_in_one_step(csa):
    attention, cache, x = csa
    a, b = cache.add(), cache.add()
    first = run(attention, cache, a, x, [50])
    with cache.step([b, a], [50, 3]) as step:
        both = attention(np.concatenate([x[:50], x[50:53]]), step)
    assert (both[:50] == first).all()
    assert cache.length(a) == 53 and cache.length(b) == 50


def test_roll_back_fork_and_snapshot(csa):
    attention, cache, x = csa
    sequence = cache.add()
    run(attention, cache, sequence, x, [100])
    saved = cache.snapshot(sequence)
    following = run(attention, cache, sequence, x[100:], [5])
    forked = cache.fork(sequence, 100)
    assert (run(attention, cache, forked, x[100:], [5]) == following).all()
    cache.roll_back(sequence, 5)
    assert cache.length(sequence) == 100
    assert (run(attention, cache, sequence, x[100:], [5]) == following).all()
    other = fathom.Cache(attention, 1, 200)
    restored = other.restore(saved)
    assert (run(attention, other, restored, x[100:], [5]) == following).all()
    with pytest.raises((ValueError, NotImplementedError)):
        other.restore(saved[:-1])
    assert cache.length(cache.fork(sequence)) == 105


def test_a_step_that_fails_leaves_no_trace(csa):
    attention, cache, x = csa
    sequence = cache.add()
    free = cache.num_free_pages()
    with pytest.raises(KeyError):
        with cache.step([sequence], [70]) as step:
            attention(x[:70], step)
            raise KeyError
    assert cache.length(sequence) == 0 and cache.num_free_pages() == free
    with pytest.raises(ValueError, match="not begun or is over"):
        attention(x[:70], step)
    with pytest.raises(ValueError, match="not begun"):
        attention(x[:70], cache.step([sequence], [70]))
    with pytest.raises(ValueError, match="x has 3 tokens"):
        with cache.step([sequence], [4]) as step:
            attention(x[:3], step)
    with cache.step([sequence], [4]) as step:
        with pytest.raises(ValueError, match="has begun and not ended"):
            cache.step([sequence], [1]).__enter__()
        attention(x[:4], step)
    assert cache.length(sequence) == 4


def test_wrong_calls(csa, golden):
    attention, cache, x = csa
    sequence = cache.add()
    for sequences, counts in [([sequence + 1], [1]), ([-1], [1]), ([sequence] * 2, [1, 1])]:
        with pytest.raises((ValueError, MemoryError)):
            with cache.step(sequences, counts):
                pass
    with pytest.raises(ValueError, match="at most 600"):
        with cache.step([sequence], [601]) as step:
            attention(np.zeros((601, 128), np.float32), step)
    with pytest.raises(ValueError, match="1 sequences and 2 counts"):
        cache.step([sequence], [1, 2])
    with cache.step([sequence], [4]) as step:
        with pytest.raises(TypeError, match="no output lse"):
            attention(x[:4], step, lse=x)
        with pytest.raises(ValueError, match="bf16"):
            attention(x[:4].astype(ml_dtypes.bfloat16), step)
        with pytest.raises(ValueError, match="not one of the cache's layers"):
            fathom.Attention(golden / "tiny", layer=0, numerics="exact", max_positions=64)(x[:4], step)
    short = fathom.Attention(golden / "tiny", layer=1, numerics="exact", max_positions=32)
    small = fathom.Cache(short, 1, 64)
    with pytest.raises(ValueError, match="position 32 is past max_positions=32"):
        with small.step([small.add()], [33]) as step:
            short(x[:33], step)
    with pytest.raises(MemoryError):
        few = fathom.Cache(short, 1, 64, window_pages=1)
        with few.step([few.add()], [65]):
            pass
    with pytest.raises(ValueError, match="same kind"):
        fathom.Cache([attention, fathom.Attention(golden / "tiny", layer=0, numerics="exact")], 1, 64)
    with pytest.raises(ValueError, match="no layers"):
        fathom.Cache([], 1, 64)
    with pytest.raises(TypeError, match="no option"):
        fathom.Cache(attention, 1, 64, page_size=3)
    if not fathom.info()["devices"][1:]:
        with pytest.raises(NotImplementedError, match="CUDA|GPU"):
            fathom.Attention(golden / "tiny", device="cuda")
    with pytest.raises(ValueError):
        fathom.Attention(golden / "tiny", layer=3)
    with pytest.raises((ValueError, RuntimeError)):
        fathom.Attention(golden / "nowhere", layer=0)


def test_layers_of_a_kind_share_a_cache(golden):
    layers = [
        fathom.Attention(golden / "tiny", layer=1, numerics="exact", max_tokens=300, max_positions=512)
        for _ in range(2)
    ]
    cache = fathom.Cache(layers, 1, 300)
    x = values(golden, "tiny", "exact", 1, "hidden")[:150]
    with cache.step([cache.add()], [150]) as step:
        first, second = (layer(x, step) for layer in layers)
        third = layers[1](2 * x, step)
    assert (first == second).all() and not (first == third).all()
    assert cache.pages(0).shape == cache.pages(1).shape and cache.pages(0, "index_state").numpy().any()


def test_parts_add_up(golden):
    whole = fathom.Attention(golden / "tiny", layer=0, numerics="exact", max_positions=512)
    x = values(golden, "tiny", "exact", 0, "hidden")[:64]
    total = 0
    for rank in range(2):
        part = fathom.Attention(golden / "tiny", layer=0, numerics="exact", max_positions=512, rank=rank, world=2)
        cache = fathom.Cache(part, 1, 64)
        total = total + run(part, cache, cache.add(), x, [64])
    cache = fathom.Cache(whole, 1, 64)
    assert relative(total, run(whole, cache, cache.add(), x, [64])) < 1e-6


def test_configurations_come_in_every_form(golden):
    text = json.loads((golden / "tiny" / "config.json").read_text())
    files = golden / "tiny" / "model.safetensors"
    for config in (golden / "tiny", golden / "tiny" / "config.json", str(golden / "tiny"), text):
        assert fathom.Attention(config, files, 2, max_positions=64).compress_ratio == 128
    with pytest.raises(ValueError, match="v5"):
        fathom.Attention("v5", files)
    with pytest.raises(ValueError):
        fathom.Attention({**text, "n_heads": "many"}, files)


def test_checkpoint_is_a_mapping_of_views(golden):
    checkpoint = fathom.Checkpoint(golden / "tiny" / "model.safetensors")
    names = list(checkpoint)
    assert len(checkpoint) == len(names) and "layers.0.attn.attn_sink" in checkpoint
    sink = checkpoint["layers.0.attn.attn_sink"]
    assert sink.dtype == "f32" and sink.read_only
    kept = ref.read_safetensors(golden / "tiny" / "model.safetensors")
    for name in names:
        assert (checkpoint[name].numpy().astype(np.float32) == kept[name]).all(), name
    with pytest.raises(KeyError):
        checkpoint["layers.9.attn.attn_sink"]


_NAMES = {
    "wq_a": "wq_a", "wq_b": "wq_b", "wkv": "wkv", "wo_a": "wo_a", "wo_b": "wo_b", "index_wq_b": "indexer.wq_b",
    "q_norm": "q_norm", "kv_norm": "kv_norm", "compress_wkv": "compressor.wkv", "compress_wgate": "compressor.wgate",
    "compress_norm": "compressor.norm", "index_weights_proj": "indexer.weights_proj",
    "index_wkv": "indexer.compressor.wkv", "index_wgate": "indexer.compressor.wgate", "index_norm": "indexer.compressor.norm",
}  # fmt: skip
_BARE = {"attn_sink": "attn_sink", "compress_ape": "compressor.ape", "index_ape": "indexer.compressor.ape"}


@pytest.mark.parametrize("model, numerics", [("tiny", "exact"), ("tiny", "served"), ("tiny_fp8", "served")])
def test_weights_as_arrays(golden, model, numerics):
    """The same weights given as arrays, scales of FP8 ones too, give the same bits."""
    checkpoint = fathom.Checkpoint(golden / model / "model.safetensors")
    config = golden / model / "config.json"
    layers = json.loads(config.read_text())["n_layers"]
    for layer in range(layers):
        prefix = f"layers.{layer}.attn."
        candidates = {name: prefix + own for name, own in _BARE.items()}
        candidates.update({name: f"{prefix}{own}.weight" for name, own in _NAMES.items()})
        candidates.update({f"{name}_scale": f"{prefix}{own}.scale" for name, own in _NAMES.items()})
        arrays = {name: checkpoint[own] for name, own in candidates.items() if own in checkpoint}
        out = []
        for source in (checkpoint, arrays):
            attention = fathom.Attention(config, source, layer, numerics=numerics, max_positions=512)
            x = (
                np.random.default_rng(layer)
                .standard_normal((140, attention.hidden_size))
                .astype(np.float32 if numerics == "exact" else ml_dtypes.bfloat16)
            )
            cache = fathom.Cache(attention, 1, 256)
            with cache.step([cache.add()], [140]) as step:
                out.append(np.asarray(attention(x, step)).astype(np.float32))
        assert np.abs(out[0]).max() > 0
        np.testing.assert_array_equal(*out)
    with pytest.raises(TypeError, match="no weight wq_z"):
        fathom.Attention(config, {"wq_z": np.zeros(3, np.float32)}, 0)
    with pytest.raises(ValueError, match="world"):
        fathom.Attention(config, arrays, layers - 1, world=2)
    arrays.pop("wq_a")
    attention = fathom.Attention(config, arrays, layers - 1, numerics=numerics, max_positions=512)
    cache = fathom.Cache(attention, 1, 256)
    with pytest.raises(ValueError, match="wq_a"):
        with cache.step([cache.add()], [140]) as step:
            attention(x, step)
