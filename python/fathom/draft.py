"""The five functions of the PyTorch draft that Fathom grew from, under their old names.

semantics="v4" (the default) computes what the model computes, through the op `attend`: rows are taken as the caches hold
them, already rotated; the sink joins the denominator; window and selected rows share one softmax; block tables and slot
mappings are honoured, a missing table meaning one contiguous sequence; an index outside the cache is absent.
semantics="draft" is the draft's own arithmetic, for comparison with numbers that it produced: see each function.

T tokens, NH heads, HD head dim. Caches are [num_blocks, block_size, HD]: uint8 means raw E4M3 codes without scales,
anything else counts as bf16. Results are bf16 [T, NH, HD]. Block tables are int32 [max_blocks], one sequence, or
[T, max_blocks], a row for each token. Needs torch.
"""

import torch

from ._ops import run_once

__all__ = [
    "csa_hca_forward",
    "csa_sparse_attention",
    "csa_sparse_attention_batched",
    "full_attention_reference",
    "swa_attention",
]


def _is_draft(semantics):
    if semantics not in ("v4", "draft"):
        raise ValueError(f'fathom.draft: semantics is {semantics!r}, expected "v4" or "draft"')
    return semantics == "draft"


def _bf16(cache):
    return (cache.view(torch.float8_e4m3fn) if cache.dtype == torch.uint8 else cache).to(torch.bfloat16)


# ---- What the model computes ----------------------------------------------------------------------------------------


def _slots(rows, block_table, block_size):
    """Slots of row numbers [T, n] through block tables; -1 where there is none."""
    if block_table is None:
        return torch.where(rows < 0, -1, rows).int()
    table = block_table.reshape(1, -1) if block_table.dim() == 1 else block_table
    table = table.expand(rows.shape[0], -1).long()
    blocks = torch.div(rows, block_size, rounding_mode="floor").long()
    inside = (rows >= 0) & (blocks < table.shape[1])
    pages = (
        table.gather(1, blocks.clamp(0, max(table.shape[1] - 1, 0))) if table.shape[1] else torch.full_like(blocks, -1)
    )
    return torch.where(inside & (pages >= 0), pages * block_size + rows % block_size, -1).int()


def _row_set(name, cache, slots):
    """A cache and its slots as a row set of attend."""
    pages = _bf16(cache).contiguous()
    blocks, block_size, dim = pages.shape
    return {
        f"{name}_cache": pages.view(torch.uint8).reshape(blocks, block_size * dim * 2),
        f"{name}_indices": slots.contiguous(),
        f"{name}_rows": "list",
        f"{name}_format": "kv_bf16",
        f"{name}_page_size": block_size,
    }


def _attend(q, scale, attn_sink, *sets):
    arguments = {"q": q.to(torch.bfloat16).contiguous(), "value_dim": q.shape[2], "softmax_scale": float(scale)}
    if attn_sink is not None:
        arguments["attn_sink"] = attn_sink.float().contiguous()
    for name, (cache, slots) in zip(("window", "entries"), sets):
        arguments.update(_row_set(name, cache, slots))
    return run_once("attend", arguments)


def _picked(topk_indices, topk_lens, block_table, block_size):
    """Slots of the selected rows, -1 at and past topk_lens."""
    columns = torch.arange(topk_indices.shape[-1], device=topk_indices.device)
    rows = topk_indices.reshape(topk_indices.shape[0], -1).long()
    return torch.where(columns < topk_lens[:, None], _slots(rows, block_table, block_size), -1)


def _window(positions, block_table, slot_mapping, block_size, window_size):
    """Slots of the window of every token. A token's own row lies where slot_mapping says; so do, in one sequence, the rows
    of the other tokens of the step."""
    positions = positions.long()
    rows = positions[:, None] + torch.arange(1 - window_size, 1, device=positions.device)
    slots = _slots(rows, block_table, block_size)
    if slot_mapping is not None and len(positions):
        slots[:, -1] = slot_mapping.int()
        if block_table is None or block_table.dim() == 1 or block_table.shape[0] == 1:
            order = positions.argsort()
            place = torch.searchsorted(positions[order], rows).clamp(max=len(positions) - 1)
            here = positions[order][place] == rows
            slots = torch.where(here, slot_mapping[order][place].int(), slots)
    return slots


# ---- The draft's own arithmetic -------------------------------------------------------------------------------------


def _gather(cache, slots):
    """Rows [T, n, HD] at slots; those outside the cache are zero."""
    rows = _bf16(cache).reshape(-1, cache.shape[-1])
    inside = (slots >= 0) & (slots < rows.shape[0])
    if not rows.shape[0]:
        return rows.new_zeros(*slots.shape, rows.shape[1])
    return torch.where(inside[..., None], rows[slots.clamp(0, rows.shape[0] - 1)], 0)


def _rotate(rows, indices, nope_dim, cos_sin_cache):
    """Dims nope_dim and up, adjacent pairs, by the row of the table that the row's index names."""
    table = cos_sin_cache.float()[indices.clamp(0, cos_sin_cache.shape[0] - 1)]
    cos, sin = table.chunk(2, -1)
    even, odd = rows[..., nope_dim::2].float(), rows[..., nope_dim + 1 :: 2].float()
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat([rows[..., :nope_dim], rotated.to(rows.dtype)], -1)


def _weigh(q, rows, scale, masked, sink=None):
    """Softmax over the columns of `rows` that are not masked; a query without any gives 0."""
    logits = torch.einsum("thd,tnd->thn", q.to(torch.bfloat16).float(), rows.float()) * scale
    if sink is not None and logits.shape[2]:
        logits[:, :, 0] += sink.float()
    logits = logits.masked_fill(masked[:, None, :], float("-inf"))
    weights = logits.softmax(-1).nan_to_num(0.0).to(torch.bfloat16)
    return torch.einsum("thn,tnd->thd", weights.float(), rows.float()).to(torch.bfloat16)


def _selected(q, kv_cache, indices, topk_lens, scale, nope_dim, cos_sin_cache, sink):
    rows = _rotate(_gather(kv_cache, indices), indices, nope_dim, cos_sin_cache)
    columns = torch.arange(indices.shape[1], device=q.device)
    return _weigh(q, rows, scale, columns >= topk_lens[:, None], sink)


# ---- The five functions ---------------------------------------------------------------------------------------------


def csa_sparse_attention(
    q,
    kv_cache,
    topk_indices,
    topk_lens,
    block_table,
    block_size,
    scale,
    nope_dim,
    rope_dim,
    cos_sin_cache,
    positions,
    attn_sink=None,
    *,
    semantics="v4",
):
    """Attention over selected rows: topk_indices [T, K] or [T, 1, K], of which the first topk_lens [T] columns count.

    v4     indices are entries of the token's sequence; attn_sink [NH] joins the denominator
    draft  indices are slots, one outside the cache being a zero row that takes part; rows are rotated by
           cos_sin_cache[index]; the sink is added to the logit of column 0
    """
    if not _is_draft(semantics):
        return _attend(q, scale, attn_sink, (kv_cache, _picked(topk_indices, topk_lens, block_table, block_size)))
    indices = topk_indices.reshape(topk_indices.shape[0], -1).long()
    return _selected(q, kv_cache, indices, topk_lens, scale, nope_dim, cos_sin_cache, attn_sink)


def swa_attention(
    q, swa_kv_cache, positions, block_table, slot_mapping, block_size, window_size, scale, *, semantics="v4"
):
    """Attention over the last window_size tokens, the token's own included, without a sink.

    draft  the row of position p lies at slot p, a slot outside the cache being a zero row that takes part
    """
    if not _is_draft(semantics):
        slots = _window(positions, block_table, slot_mapping, block_size, window_size)
        return _attend(q, scale, None, (swa_kv_cache, slots))
    rows = positions.long()[:, None] + torch.arange(1 - window_size, 1, device=positions.device)
    return _weigh(q, _gather(swa_kv_cache, rows), scale, rows < 0)


def csa_hca_forward(
    q,
    kv,
    positions,
    swa_kv_cache,
    swa_block_table,
    swa_slot_mapping,
    swa_block_size,
    window_size,
    csa_kv_cache=None,
    csa_block_table=None,
    csa_block_size=256,
    compress_ratio=1,
    topk_indices=None,
    topk_lens=None,
    scale=1.0,
    nope_dim=448,
    rope_dim=64,
    cos_sin_cache=None,
    attn_sink=None,
    *,
    semantics="v4",
):
    """A layer's attention: the window, and with compress_ratio > 1 the compressed rows. `kv` is not read.

    v4     one softmax over both, with the sink; without topk_indices all visible entries, as HCA takes them
    draft  the window alone, or sparse * (1 - g) + window * g with g = sigmoid(attn_sink), or their sum without a sink
    """
    draft = _is_draft(semantics)
    if compress_ratio > 1 and csa_kv_cache is None:
        raise ValueError(f"fathom.draft: compress_ratio is {compress_ratio}, but csa_kv_cache is missing")
    if draft:
        window = swa_attention(
            q, swa_kv_cache, positions, swa_block_table, swa_slot_mapping, swa_block_size, window_size, scale,
            semantics="draft",
        )  # fmt: skip
        if compress_ratio <= 1:
            return window
        sparse = csa_sparse_attention(
            q, csa_kv_cache, topk_indices, topk_lens, csa_block_table, csa_block_size, scale, nope_dim, rope_dim,
            cos_sin_cache, positions, attn_sink, semantics="draft",
        )  # fmt: skip
        if attn_sink is None:
            return sparse + window
        gate = torch.sigmoid(attn_sink.float())[None, :, None]
        return (sparse.float() * (1 - gate) + window.float() * gate).to(torch.bfloat16)
    sets = [(swa_kv_cache, _window(positions, swa_block_table, swa_slot_mapping, swa_block_size, window_size))]
    if compress_ratio > 1:
        if topk_indices is None:
            visible = (positions.long() + 1) // compress_ratio
            most = int(visible.max()) if len(visible) else 0
            topk_indices = torch.arange(most, device=q.device).expand(len(visible), most)
            topk_lens = visible
        sets.append((csa_kv_cache, _picked(topk_indices, topk_lens, csa_block_table, csa_block_size)))
    return _attend(q, scale, attn_sink, *sets)


def csa_sparse_attention_batched(
    q,
    kv_cache,
    topk_indices,
    topk_lens,
    block_size,
    scale,
    nope_dim,
    rope_dim,
    cos_sin_cache,
    positions,
    attn_sink=None,
    *,
    semantics="v4",
):
    """csa_sparse_attention without block table.

    draft  indices are clamped into the cache, and attn_sink is not applied
    """
    if not _is_draft(semantics):
        return csa_sparse_attention(
            q, kv_cache, topk_indices, topk_lens, None, block_size, scale, nope_dim, rope_dim, cos_sin_cache,
            positions, attn_sink,
        )  # fmt: skip
    rows = kv_cache.shape[0] * kv_cache.shape[1]
    indices = topk_indices.reshape(topk_indices.shape[0], -1).long().clamp(0, max(rows - 1, 0))
    return _selected(q, kv_cache, indices, topk_lens, scale, nope_dim, cos_sin_cache, None)


def full_attention_reference(q, kv, scale=1.0, *, semantics="v4"):
    """Causal attention of every token of one sequence over all tokens up to itself: K = V = kv [T, HD]."""
    tokens = q.shape[0]
    below = torch.arange(tokens, device=q.device)
    if _is_draft(semantics):
        rows = kv.to(torch.bfloat16).expand(tokens, -1, -1)
        return _weigh(q, rows, scale, below > below[:, None])
    pages = kv.to(torch.bfloat16).contiguous()
    return run_once(
        "attend",
        {
            "q": q.to(torch.bfloat16).contiguous(),
            "seq_ids": below.int() * 0,
            "window_cache": pages.view(torch.uint8).reshape(tokens, kv.shape[1] * 2),
            "window_end": below.int() + 1,
            "window_block_table": below.int()[None],
            "window_rows": "range",
            "window_format": "kv_bf16",
            "window_page_size": 1,
            "window_width": tokens,
            "value_dim": q.shape[2],
            "softmax_scale": float(scale),
        },
    )
