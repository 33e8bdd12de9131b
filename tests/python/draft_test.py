"""fathom.draft against plain loops in float64, written from the description of the draft, and against the layer."""

import math

import pytest

torch = pytest.importorskip("torch")
import fathom  # noqa: E402
from fathom import draft  # noqa: E402


def rows_of(cache):
    """What a cache holds, in float64: [slots, HD]."""
    if cache.dtype == torch.uint8:
        cache = cache.view(torch.float8_e4m3fn)
    return cache.to(torch.bfloat16).double().reshape(-1, cache.shape[-1])


def soft(q, rows, scale, first=None, denominator=None):
    """One token: q [NH, HD] over rows, lists of [HD]; `first` is added to the first logit, `denominator` a sink."""
    out = torch.zeros(q.shape[0], q.shape[1], dtype=torch.float64)
    for head in range(q.shape[0]):
        logits = [float(q[head].double() @ row) * scale for row in rows]
        if not logits:
            continue
        if first is not None:
            logits[0] += float(first[head])
        top = max(logits)
        weights = [math.exp(logit - top) for logit in logits]
        total = sum(weights) + (0 if denominator is None else math.exp(float(denominator[head]) - top))
        for weight, row in zip(weights, rows):
            out[head] += weight / total * row
    return out


def rotated(row, index, nope, table):
    row, (cos, sin) = row.clone(), table[min(max(index, 0), len(table) - 1)].double().chunk(2)
    for pair in range(len(cos)):
        a, b = float(row[nope + 2 * pair]), float(row[nope + 2 * pair + 1])
        row[nope + 2 * pair] = a * cos[pair] - b * sin[pair]
        row[nope + 2 * pair + 1] = a * sin[pair] + b * cos[pair]
    return row


class Case:
    """A little of everything: short lists, bad indices, several pages, positions from 0 on."""

    def __init__(self, seed, dtype=torch.bfloat16, dim=512, heads=3):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        self.nope, self.rope = dim - 64, 64
        self.positions = torch.tensor([0, 1, 6, 30, 31, 39, 47])
        tokens = len(self.positions)
        self.scale = dim**-0.5
        self.q = (4 * normal(tokens, heads, dim)).to(torch.bfloat16)
        self.swa = self.cache(normal(7, 8, dim), dtype)
        self.csa = self.cache(normal(5, 4, dim), dtype)
        self.indices = torch.randint(0, 12, (tokens, 9), generator=generator, dtype=torch.int32)
        self.lens = torch.tensor([0, 1, 2, 9, 5, 9, 8], dtype=torch.int32)
        self.table = normal(64, 64)
        self.sink = normal(heads)

    @staticmethod
    def cache(values, dtype):
        return values.to(torch.float8_e4m3fn).view(torch.uint8) if dtype == torch.uint8 else values.to(dtype)

    def sparse(self, **changes):
        given = dict(
            q=self.q, kv_cache=self.csa, topk_indices=self.indices, topk_lens=self.lens, block_table=None, block_size=4,
            scale=self.scale, nope_dim=self.nope, rope_dim=self.rope, cos_sin_cache=self.table,
            positions=self.positions, attn_sink=self.sink,
        )  # fmt: skip
        return {**given, **changes}

    def window(self, **changes):
        given = dict(
            q=self.q, swa_kv_cache=self.swa, positions=self.positions, block_table=None, slot_mapping=None,
            block_size=8, window_size=6, scale=self.scale,
        )  # fmt: skip
        return {**given, **changes}

    def layer(self, **changes):
        given = dict(
            q=self.q, kv=None, positions=self.positions, swa_kv_cache=self.swa, swa_block_table=None,
            swa_slot_mapping=None, swa_block_size=8, window_size=6, csa_kv_cache=self.csa, csa_block_size=4,
            compress_ratio=4, topk_indices=self.indices, topk_lens=self.lens, scale=self.scale, nope_dim=self.nope,
            rope_dim=self.rope, cos_sin_cache=self.table, attn_sink=self.sink,
        )  # fmt: skip
        return {**given, **changes}


errors = []


@pytest.fixture(autouse=True)
def largest_error(request):
    """Says what the largest error of a test was."""
    errors.clear()
    yield
    if errors:
        print(f"\ndraft, {request.node.name}: relative L2 {max(errors):.2g} at most, {len(errors)} results")


def agrees(got, want, bound=1e-2):
    assert got.dtype == torch.bfloat16 and got.shape == want.shape
    error = ((got.double() - want).norm() / want.norm()).item()
    errors.append(error)
    assert error < bound, error


def plain_sparse(case, clamp=False, sink=None):
    rows, out = rows_of(case.csa), []
    for t in range(len(case.q)):
        picked = []
        for index in case.indices[t, : case.lens[t]].tolist():
            index = min(max(index, 0), len(rows) - 1) if clamp else index
            row = rows[index] if 0 <= index < len(rows) else torch.zeros_like(rows[0])
            picked.append(rotated(row, index, case.nope, case.table))
        out.append(soft(case.q[t], picked, case.scale, first=sink))
    return torch.stack(out)


def plain_window(case, size=6):
    rows, out = rows_of(case.swa), []
    for t, position in enumerate(case.positions.tolist()):
        seen = range(max(0, position - size + 1), position + 1)
        out.append(soft(case.q[t], [rows[p] if p < len(rows) else 0 * rows[0] for p in seen], case.scale))
    return torch.stack(out)


CACHES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8], ids=["bf16", "f32", "e4m3"])


@CACHES
def test_the_drafts_own_arithmetic(dtype):
    for seed in range(3):
        case = Case(seed, dtype)
        case.indices[3, 0], case.indices[4, 2], case.indices[5, 1] = -1, 1000, -7
        case.positions[5] = 58  # its window reaches past the cache
        sparse, window = plain_sparse(case, sink=case.sink), plain_window(case)
        own = {"semantics": "draft"}
        agrees(draft.csa_sparse_attention(**case.sparse(), **own), sparse)
        agrees(draft.csa_sparse_attention(**case.sparse(topk_indices=case.indices[:, None]), **own), sparse)
        agrees(draft.csa_sparse_attention(**case.sparse(attn_sink=None), **own), plain_sparse(case))
        agrees(draft.swa_attention(**case.window(), **own), window)
        gate = torch.sigmoid(case.sink.double())[None, :, None]
        agrees(draft.csa_hca_forward(**case.layer(), **own), sparse * (1 - gate) + window * gate)
        agrees(draft.csa_hca_forward(**case.layer(attn_sink=None), **own), plain_sparse(case) + window)
        agrees(draft.csa_hca_forward(**case.layer(compress_ratio=1), **own), window)
        batched = {name: value for name, value in case.sparse().items() if name != "block_table"}
        agrees(draft.csa_sparse_attention_batched(**batched, **own), plain_sparse(case, clamp=True))


@CACHES
def test_what_the_model_computes(dtype):
    case = Case(1, dtype)
    case.indices[3, 0], case.indices[4, 2] = -1, 1000  # absent, no zero rows
    swa, csa = rows_of(case.swa), rows_of(case.csa)
    joint, alone, window = [], [], []
    for t, position in enumerate(case.positions.tolist()):
        picked = [csa[i] for i in case.indices[t, : case.lens[t]].tolist() if 0 <= i < len(csa)]
        seen = [swa[p] for p in range(max(0, position - 5), position + 1)]
        alone.append(soft(case.q[t], picked, case.scale, denominator=case.sink))
        joint.append(soft(case.q[t], seen + picked, case.scale, denominator=case.sink))
        window.append(soft(case.q[t], seen, case.scale))
    agrees(draft.csa_sparse_attention(**case.sparse()), torch.stack(alone))
    agrees(draft.swa_attention(**case.window()), torch.stack(window))
    agrees(draft.csa_hca_forward(**case.layer()), torch.stack(joint))
    batched = {name: value for name, value in case.sparse().items() if name != "block_table"}
    agrees(draft.csa_sparse_attention_batched(**batched), torch.stack(alone))
    assert (draft.csa_sparse_attention(**case.sparse())[0] == 0).all()  # topk_lens[0] is 0


def test_block_tables_and_slot_mappings():
    """The same rows elsewhere give the same result, one table for all or a row for each token."""
    case = Case(2)
    want = draft.csa_hca_forward(**case.layer())
    order = torch.tensor([4, 2, 6, 0, 5, 1, 3], dtype=torch.int32)
    moved = torch.full_like(case.swa, float("nan"))
    moved[order.long()] = case.swa
    csa_order = torch.tensor([3, 0, 4, 1, 2], dtype=torch.int32)
    csa_moved = torch.empty_like(case.csa)
    csa_moved[csa_order.long()] = case.csa
    given = case.layer(swa_kv_cache=moved, csa_kv_cache=csa_moved)
    slots = order[(case.positions // 8)] * 8 + case.positions % 8
    for rows in (1, len(case.q)):
        tables = order.expand(rows, -1) if rows > 1 else order
        given.update(swa_block_table=tables, csa_block_table=csa_order.expand(rows, -1), swa_slot_mapping=slots)
        assert torch.equal(draft.csa_hca_forward(**given), want)
    # Without a table the step's own rows lie where slot_mapping says.
    positions = torch.arange(5)
    slots = torch.tensor([40, 3, 17, 8, 55])
    straight = case.swa.clone().reshape(-1, 512)
    shuffled = torch.full_like(straight, float("nan"))
    shuffled[slots] = straight[:5]
    a = draft.swa_attention(**case.window(q=case.q[:5], positions=positions))
    b = draft.swa_attention(
        **case.window(q=case.q[:5], positions=positions, swa_kv_cache=shuffled.view(7, 8, 512), slot_mapping=slots)
    )
    assert torch.equal(a, b)


def test_without_picks_all_visible_entries_are_taken():
    case = Case(3)
    visible = (case.positions + 1) // 4
    every = torch.arange(int(visible.max())).expand(len(visible), -1)
    want = draft.csa_hca_forward(**case.layer(topk_indices=every, topk_lens=visible))
    assert torch.equal(draft.csa_hca_forward(**case.layer(topk_indices=None, topk_lens=None)), want)


@pytest.mark.parametrize("semantics", ["v4", "draft"])
def test_full_attention(semantics):
    case = Case(4, dim=64)
    kv = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    want = torch.stack([soft(case.q[t], list(kv[: t + 1].double()), 0.1) for t in range(7)])
    agrees(draft.full_attention_reference(case.q, kv, 0.1, semantics=semantics), want)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_default_is_the_layer(golden, layer):
    """On what a served layer projected, cached and picked, csa_hca_forward is the layer's own attention."""
    from fathom import reference

    config = reference.Config.read(golden / "tiny" / "config.json")
    ratio = config.compress_ratios[layer]
    weights = reference.layer_weights(
        reference.read_safetensors(golden / "tiny" / "model.safetensors"), f"layers.{layer}.attn."
    )
    x = torch.randn(300, config.dim, generator=torch.Generator().manual_seed(layer)).to(torch.bfloat16)
    attention = fathom.Attention(golden / "tiny", layer=layer, max_tokens=300, max_positions=512)
    cache = fathom.Cache(attention, 1, 320)
    attn_out = torch.empty(300, config.n_heads, config.head_dim, dtype=torch.bfloat16)
    with cache.step([cache.add()], [300]) as step:
        attention(x, step, attn_out=attn_out)
    result = reference.attention_layer(config, layer, weights, x.float().numpy(), "served")
    math_ = reference.Arithmetic(config, layer, weights, "served")
    q = torch.from_numpy(reference.project(math_, x.float().numpy(), torch.arange(300).numpy())[0].astype("f4"))

    def pages(rows, size):
        rows = torch.from_numpy(rows.astype("f4")).to(torch.bfloat16)
        return torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % size)).view(-1, size, config.head_dim)

    given = {}
    if ratio:
        given = dict(csa_kv_cache=pages(result.entries, 16), csa_block_size=16, compress_ratio=ratio)
    if ratio == 4:
        given["topk_lens"] = torch.tensor([len(row) for row in result.picks], dtype=torch.int32)
        given["topk_indices"] = torch.stack(
            [torch.nn.functional.pad(torch.from_numpy(row), (0, config.index_topk - len(row))) for row in result.picks]
        )
    got = draft.csa_hca_forward(
        q, None, torch.arange(300), pages(result.window, 32), None, None, 32, config.window_size,
        scale=config.head_dim**-0.5, attn_sink=torch.from_numpy(weights["attn_sink"].copy()), **given,
    )  # fmt: skip
    agrees(got, attn_out.double(), bound=1e-2)


def test_wrong_calls():
    case = Case(5)
    with pytest.raises(ValueError, match="semantics"):
        draft.swa_attention(**case.window(), semantics="v3")
    with pytest.raises(ValueError, match="csa_kv_cache"):
        draft.csa_hca_forward(**case.layer(csa_kv_cache=None))
