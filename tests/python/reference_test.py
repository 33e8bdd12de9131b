"""fathom.reference against the golden vectors, the worked examples of the specification, and others' number types."""

import pytest

np = pytest.importorskip("numpy")
from fathom import reference as ref  # noqa: E402

CASES = (
    [("tiny", "exact", layer) for layer in range(3)]
    + [("tiny", "served", layer) for layer in range(3)]
    + [("tiny_fp8", "served", layer) for layer in range(2)]
)


def relative(got, want):
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want.astype(np.float64)))


@pytest.fixture(scope="module")
def layers(golden):
    """Results by (model, numerics, layer), with the picks of the expected values where those are given."""
    done, files = {}, {}

    def run(model, numerics, layer):
        if (model, numerics, layer) not in done:
            if model not in files:
                files[model] = (
                    ref.Config.read(golden / model / "config.json"),
                    ref.read_safetensors(golden / model / "model.safetensors"),
                )
            config, tensors = files[model]
            expected = {
                name.split(".", 2)[2]: value
                for name, value in ref.read_safetensors(golden / model / f"expected_{numerics}.safetensors").items()
                if name.startswith(f"layers.{layer}.")
            }
            weights = ref.layer_weights(tensors, f"layers.{layer}.attn.")
            picks = None
            if "topk_idxs" in expected:
                picks = [row[row >= 0] for row in expected["topk_idxs"].astype(int)]
            done[model, numerics, layer] = (
                config,
                expected,
                picks,
                ref.attention_layer(config, layer, weights, expected["hidden"], numerics, picks),
            )
        return done[model, numerics, layer]

    return run


@pytest.mark.parametrize("model, numerics, layer", CASES)
def test_output_is_the_golden_one(layers, model, numerics, layer):
    _, expected, _, result = layers(model, numerics, layer)
    bound, worst = (1e-5, 1e-5) if numerics == "exact" else (5e-3, 2e-2)
    assert relative(result.output, expected["output"]) < bound
    for got, want in zip(result.output, expected["output"]):
        assert relative(got, want) < worst


@pytest.mark.parametrize("model, numerics, layer", CASES)
def test_caches_are_the_golden_ones(layers, model, numerics, layer):
    _, expected, _, result = layers(model, numerics, layer)
    tokens = len(result.output)
    ring = np.stack([result.window[p] for p in sorted(range(tokens)[-128:], key=lambda p: p % 128)])
    pairs = [(ring, "final_window_ring"), (result.entries, "final_compressed_kv"), (result.index_keys, "final_index_k")]
    for got, name in pairs:
        if got is None or name not in expected:
            continue
        want = expected[name].reshape(got.shape)
        if numerics == "exact":  # the expected values were computed in f32
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
        else:  # sums in another order: few values end up one step of their format away
            assert np.mean(got != want) < 2e-3, name
            assert relative(got, want) < 1e-3, name


@pytest.mark.parametrize(
    "model, numerics, layer", [case for case in CASES if case[2] == (1 if case[0] == "tiny" else 0)]
)
def test_scores_and_picks_are_the_golden_ones(layers, model, numerics, layer):
    config, expected, picks, result = layers(model, numerics, layer)
    want = expected["index_scores"][:, : result.index_scores.shape[1]]
    assert (np.isinf(want) == np.isinf(result.index_scores)).all()
    seen = ~np.isinf(want)
    np.testing.assert_allclose(
        result.index_scores[seen], want[seen], rtol=0, atol=1e-5 if numerics == "exact" else 0.05
    )
    if numerics == "exact":
        for own, golden in zip(result.picks, picks):
            assert set(own) == set(golden)


def test_types_are_those_of_ml_dtypes():
    types = pytest.importorskip("ml_dtypes")
    bits = np.random.default_rng(1).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    floats = bits.view(np.float32)
    floats = floats[np.isfinite(floats)]
    assert (ref.round_bf16(floats) == floats.astype(types.bfloat16).astype(np.float32)).all()
    codes = np.arange(256, dtype=np.uint8).view(types.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(codes, ref.E4M3_VALUES)
    small = np.concatenate(
        [np.linspace(-448, 448, 100_001), np.ldexp(np.linspace(-1, 1, 4001), -5), (codes[:126] + codes[1:127]) / 2]
    )
    small = small.astype(np.float32)
    np.testing.assert_array_equal(ref.round_e4m3(small), small.astype(types.float8_e4m3fn).astype(np.float32))


def test_quantisers_of_spec_13_3():
    v = np.zeros((1, 64), np.float32)
    v[0, :6] = 0.30078125, -1.703125, 3.703125, 0.010009765625, 0, -0.06201171875
    codes, scale = ref.quantise_q8(v, 64)
    assert scale[0, 0] == 2.0**-6
    assert codes[0, :6].tolist() == [20, -112, 240, 0.625, 0, -4]
    assert ref.fake_q4(v)[0, :6].tolist() == [0.5, -1.5, 4, 0, 0, 0]
    assert ref.quantise_q8(np.zeros((1, 64)), 64)[1][0, 0] == 2.0**-22


def test_frequencies_of_spec_0_6():
    config = ref.Config(1, 1, 1, 1, 1, [0, 4])
    bits = ref.rope_frequencies(config, 4).view(np.uint32)
    want = {
        0: 0x3F800000,
        1: 0x3F300A3A,
        15: 0x3B6E4237,
        16: 0x3B147AE1,
        20: 0x399BB3AF,
        24: 0x37A3D70C,
        25: 0x36B443D0,
        31: 0x35187C4D,
    }
    assert {i: int(bits[i]) for i in want} == want
    bits = ref.rope_frequencies(config, 0).view(np.uint32)
    assert (bits[1], bits[16], bits[31]) == (0x3F3FF911, 0x3C23D70A, 0x390BD472)


@pytest.mark.parametrize("kind, ratio", [("window", 0), ("compressed", 4)])
def test_rope_tables_are_the_golden_ones(golden, kind, ratio):
    tables = ref.read_safetensors(golden / "tables.safetensors")
    positions = tables["positions"].ravel()
    cos, sin = ref.rope_table(ref.rope_frequencies(ref.Config(1, 1, 1, 1, 1, [0]), ratio), positions)
    np.testing.assert_allclose(cos, tables[f"rope.{kind}.cos"], atol=1e-6)
    np.testing.assert_allclose(sin, tables[f"rope.{kind}.sin"], atol=1e-6)


def test_joint_softmax_of_spec_13_2():
    q = np.array([[[1, -0.5, 2, 0.25]]])
    rows = np.array([[0.5, 1, 1.5, -1], [1, 0, -0.5, 2], [2, 1, 0.5, 0], [-1, 0.5, 1, 4]])
    out, lse = ref.attend(q, rows, np.ones((1, 4), bool), np.array([0.75]))
    np.testing.assert_allclose(out[0, 0], [0.592162, 0.652673, 0.712301, 0.619726], atol=1e-6)
    assert lse[0, 0] == pytest.approx(2.409493, abs=1e-6)
    out, lse = ref.attend(q, rows, np.zeros((1, 4), bool), np.array([0.75]))
    assert (out == 0).all() and lse[0, 0] == -np.inf


def test_hadamard_is_its_own_inverse_and_numerics_are_named():
    v = np.random.default_rng(2).standard_normal((3, 128))
    np.testing.assert_allclose(ref.hadamard(ref.hadamard(v)), v, atol=1e-12)
    assert ref.hadamard(np.eye(128))[0, 0] == pytest.approx(128**-0.5)
    with pytest.raises(ValueError, match="expected 'exact' or 'served'"):
        ref.Arithmetic(ref.Config(1, 1, 1, 1, 1, [0]), 0, {}, "fast")
