"""FlashMLA's interface (the April 2026 line) on Fathom's attend: the same arguments, order and results.

V4: head dim 512, 584-byte rows, a second cache, sink, lengths. V3.2: head dim 576, value dim 512, 656-byte rows.
What is wider here: any 1 to 128 heads, any page size, any number of indices, unaligned widths; sinks, lengths and a
second cache with V3.2 rows too. What lies behind a length, or in a slot that no index names, cannot reach
the result, NaN included.

Tensors are torch's, or anything with data_ptr, dtype, shape, stride(), device, new_empty, reshape, transpose,
masked_fill_ and repeat_interleave. The module imports no torch.
"""

import dataclasses
import sys

from .._ops import cached_plan, capacity, current_stream, device_of, problem_text
from .._rows import pages_view
from .._views import View, dtype_name, view

__all__ = ["FlashMLASchedMeta", "flash_mla_sparse_fwd", "flash_mla_with_kvcache", "get_mla_metadata"]

_ROW_BYTES = {512: (584, "kv_e4m3_ue8m0"), 576: (656, "kv_e4m3_f32")}
_NEVER, _INF = float("-inf"), float("inf")


@dataclasses.dataclass
class FlashMLASchedMeta:
    """FlashMLA's scheduling state. Fathom keeps none between calls, so one object serves calls of any shape."""

    have_initialized: bool = False
    config: object = None
    tile_scheduler_metadata: object = None
    num_splits: object = None


def get_mla_metadata(*args, **kwargs):
    """(FlashMLASchedMeta, None), whatever the arguments."""
    return FlashMLASchedMeta(), None


def _check(holds, sentence):
    if not holds:
        raise ValueError(sentence)


def _has_shape(function, name, tensor, dtype, *expected):
    """`expected` extents; None stands for any."""
    shape, own = list(tensor.shape), dtype_name(tensor.dtype)
    fits = len(shape) == len(expected) and all(want in (None, got) for want, got in zip(expected, shape))
    _check(
        fits, f"{function}: {name} has shape {shape}, expected {['any' if want is None else want for want in expected]}"
    )
    _check(own == dtype, f"{function}: {name} is {own}, expected {dtype}")


def _float32(tensor):
    """float32 as the library of `tensor` writes it: torch.float32."""
    modules = (sys.modules.get(base.__module__.partition(".")[0]) for base in type(tensor).__mro__)
    return next(module.float32 for module in modules if hasattr(module, "float32"))


def _set_of(prefix, cache, page_size, fmt, indices, lengths, tokens, fields, arrays):
    """A cache and its index lists as one row set of attend."""
    width = indices.shape[-1]
    fields.update(
        {f"{prefix}_rows": "list", f"{prefix}_format": fmt, f"{prefix}_page_size": page_size, f"{prefix}_width": width}
    )
    arrays.update(
        {f"{prefix}_cache": cache, f"{prefix}_indices": indices.reshape(tokens, width), f"{prefix}_lengths": lengths}
    )


def _run(q, value_dim, scale, fields, arrays):
    """attend on q [tokens, heads, dim] into arrays["out"]: (lse, max_logits), as FlashMLA reports empty rows."""
    tokens, heads, dim = q.shape
    lse = q.new_empty((tokens, heads), dtype=_float32(q))
    max_logits = q.new_empty((tokens, heads), dtype=_float32(q))
    if tokens:
        arrays = {name: view(array) for name, array in arrays.items() if array is not None}
        fields.update(
            num_tokens=capacity(tokens), num_heads=heads, head_dim=dim, value_dim=value_dim, softmax_scale=float(scale)
        )
        device = device_of(arrays.values())
        stream = current_stream(device)
        cached_plan("attend", problem_text(fields), device, stream=stream)(
            stream=stream, q=view(q), lse=view(lse), max_logits=view(max_logits), **arrays
        )
        lse.masked_fill_(lse == _NEVER, _INF)  # queries that see nothing
    return lse, max_logits


def _cache_pages(function, name, cache, row_bytes):
    shape = tuple(cache.shape)
    _check(
        len(shape) == 4 and shape[2] == 1 and shape[3] == row_bytes and shape[1] >= 1,
        f"{function}: {name} has shape {list(shape)}, expected [num_blocks, page_block_size, 1, {row_bytes}]",
    )
    return pages_view(cache)


def flash_mla_with_kvcache(
    q,
    k_cache,
    block_table,
    cache_seqlens,
    head_dim_v,
    tile_scheduler_metadata,
    num_splits=None,
    softmax_scale=None,
    causal=False,
    is_fp8_kvcache=False,
    indices=None,
    attn_sink=None,
    extra_k_cache=None,
    extra_indices_in_kvcache=None,
    topk_length=None,
    extra_topk_length=None,
    *,
    out=None,
):
    """Sparse decode over FP8 pages: (out bf16 [b, s_q, h_q, 512], lse f32 [b, h_q, s_q]).

    q        bf16 [b, s_q, h_q, 512 | 576]
    k_cache  fp8, int8 or uint8 [num_blocks, page_block_size, 1, 584 | 656]: rows chosen by q's head dim
    indices  int32 [b, s_q, topk]: block * page_block_size + offset; -1, or outside the cache, is skipped, anywhere
    topk_length, extra_topk_length  int32 [b]: columns at and past it are not read
    attn_sink  f32 [h_q]: joins the denominator, not lse; -inf has no effect, +inf gives 0
    lse      natural log, without the sink, +inf for a query that sees nothing (its out is 0)

    Every argument is checked on every call. Dense attention (indices=None) is refused.
    """
    function = "flash_mla_with_kvcache"
    _check(
        isinstance(tile_scheduler_metadata, FlashMLASchedMeta),
        f"{function}: tile_scheduler_metadata is a {type(tile_scheduler_metadata).__name__}, "
        "expected what get_mla_metadata gives",
    )
    _check(num_splits is None, f"{function}: num_splits is given, expected None")
    if indices is None:
        raise NotImplementedError(f"{function}: indices is None; dense attention is not DeepSeek-V4's and not offered")
    _check(not causal, f"{function}: causal is True, expected False with indices")
    _check(is_fp8_kvcache, f"{function}: is_fp8_kvcache is False, expected True with indices")
    _check(head_dim_v == 512, f"{function}: head_dim_v is {head_dim_v}, expected 512")
    _check(
        (extra_k_cache is None) == (extra_indices_in_kvcache is None),
        f"{function}: extra_k_cache and extra_indices_in_kvcache are given one without the other",
    )
    _check(
        extra_topk_length is None or extra_k_cache is not None, f"{function}: extra_topk_length without extra_k_cache"
    )
    _has_shape(function, "q", q, "bf16", None, None, None, None)
    batch, queries, heads, dim = q.shape
    _check(dim in _ROW_BYTES, f"{function}: q has head dim {dim}, expected 512 (V4) or 576 (V3.2)")
    row_bytes, fmt = _ROW_BYTES[dim]
    tokens = batch * queries

    def per_query(name, lengths):
        if lengths is None:
            return None
        _has_shape(function, name, lengths, "i32", batch)
        return lengths.repeat_interleave(queries) if queries != 1 else lengths

    fields, arrays = {}, {"attn_sink": attn_sink}
    _has_shape(function, "indices", indices, "i32", batch, queries, None)
    pages = _cache_pages(function, "k_cache", k_cache, row_bytes)
    _set_of(
        "window", pages, k_cache.shape[1], fmt, indices, per_query("topk_length", topk_length), tokens, fields, arrays
    )
    if extra_k_cache is not None:
        _has_shape(function, "extra_indices_in_kvcache", extra_indices_in_kvcache, "i32", batch, queries, None)
        pages = _cache_pages(function, "extra_k_cache", extra_k_cache, row_bytes)
        _set_of(
            "entries",
            pages,
            extra_k_cache.shape[1],
            fmt,
            extra_indices_in_kvcache,
            per_query("extra_topk_length", extra_topk_length),
            tokens,
            fields,
            arrays,
        )
    if attn_sink is not None:
        _has_shape(function, "attn_sink", attn_sink, "f32", heads)
    if out is None:
        out = q.new_empty((batch, queries, heads, head_dim_v))
    _has_shape(function, "out", out, "bf16", batch, queries, heads, head_dim_v)
    merged = view(out)
    _check(
        merged.strides[0] == queries * merged.strides[1] or batch <= 1 or queries <= 1,
        f"{function}: out has strides {list(merged.strides)}, whose batch and query extents do not follow each other",
    )
    step = merged.strides[1] if queries > 1 else merged.strides[0]
    arrays["out"] = View(
        merged.tensor.data,
        "bf16",
        (tokens, heads, head_dim_v),
        (step, *merged.strides[2:]),
        out,
        ("cuda" if merged.tensor.device else "cpu", merged.tensor.device_index),
    )
    scale = dim**-0.5 if softmax_scale is None else softmax_scale
    lse, _ = _run(q.reshape(tokens, heads, dim), head_dim_v, scale, fields, arrays)
    return out, lse.reshape(batch, queries, heads).transpose(1, 2)


def flash_mla_sparse_fwd(q, kv, indices, sm_scale, d_v=512, attn_sink=None, topk_length=None):
    """Sparse prefill over unpaged bf16 rows: (out bf16 [s_q, h_q, d_v], max_logits f32 [s_q, h_q], lse f32 [s_q, h_q]).

    q bf16 [s_q, h_q, 512 | 576];  kv bf16 [s_kv, 1, same];  indices int32 [s_q, 1, topk], invalid if < 0 or >= s_kv;
    topk_length int32 [s_q]. A query that sees nothing: out 0, max_logits -inf, lse +inf.
    """
    function = "flash_mla_sparse_fwd"
    _has_shape(function, "q", q, "bf16", None, None, None)
    tokens, heads, dim = q.shape
    _check(dim in _ROW_BYTES, f"{function}: q has head dim {dim}, expected 512 or 576")
    _check(d_v == 512, f"{function}: d_v is {d_v}, expected 512")
    _has_shape(function, "kv", kv, "bf16", None, 1, dim)
    _has_shape(function, "indices", indices, "i32", tokens, 1, None)
    if topk_length is not None:
        _has_shape(function, "topk_length", topk_length, "i32", tokens)
    if attn_sink is not None:
        _has_shape(function, "attn_sink", attn_sink, "f32", heads)
    own = view(kv)
    rows = own.shape[0]
    _check(own.strides[2] == 1, f"{function}: kv has strides {list(own.strides)}, expected 1 for the last")
    stride = 2 * (own.strides[0] if rows > 1 else dim)
    # One row is one page, so rows may lie any distance apart.
    pages = View(
        own.tensor.data,
        "u8",
        (rows, 2 * dim),
        (stride, 1),
        kv,
        ("cuda" if own.tensor.device else "cpu", own.tensor.device_index),
    )
    fields, arrays = {}, {"attn_sink": attn_sink, "out": q.new_empty((tokens, heads, d_v))}
    _set_of("window", pages, 1, "kv_bf16", indices, topk_length, tokens, fields, arrays)
    out = arrays["out"]
    lse, max_logits = _run(q, d_v, sm_scale, fields, arrays)
    return out, max_logits, lse
