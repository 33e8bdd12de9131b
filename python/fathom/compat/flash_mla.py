"""FlashMLA's interface (the April 2026 line) on Fathom's attend: the same arguments, order and results.

V4: head dim 512, 584-byte rows, a second cache, sink, lengths. V3.2: head dim 576, value dim 512, 656-byte rows.
What is wider here: any 1 to 128 heads, any page size, any number of indices, unaligned widths; sinks, lengths and a
second cache with V3.2 rows too. What lies behind a length, or in a slot that no index names, cannot reach
the result, NaN included.

Tensors are torch's, or anything with data_ptr, dtype, shape, stride(), device, new_empty, reshape, transpose,
nan_to_num_ and repeat_interleave. The module imports no torch.
"""

import dataclasses
import sys

from .._ops import cached_plan, capacity, current_stream, problem_text
from .._rows import pages_view
from .._views import View, dtype_name, view

__all__ = ["FlashMLASchedMeta", "flash_mla_sparse_fwd", "flash_mla_with_kvcache", "get_mla_metadata"]

_ROW_BYTES = {512: (584, "kv_e4m3_ue8m0"), 576: (656, "kv_e4m3_f32")}
_INF, _NAN = float("inf"), float("nan")


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


def _plus_infinity(lse):
    """As FlashMLA reports queries that see nothing."""
    return lse.nan_to_num_(nan=_NAN, posinf=_INF, neginf=_INF)


def _device_of(tensor):
    """A tensor's device as plans name it."""
    kind = tensor.device.type
    return "cpu" if kind == "cpu" else f"{kind}:{tensor.device.index or 0}"


class _Call:
    """attend on tensors of given shapes, strides, types and devices: checked and planned once, then only addresses change.

    `steps` says where an argument comes from: its place, which of the caller's tensors, and how it is made of it.
    """

    def __init__(self, q, value_dim, scale, stream):
        self.tokens, self.heads, dim = q.shape
        self.fields = dict(
            num_tokens=capacity(self.tokens),
            num_heads=self.heads,
            head_dim=dim,
            value_dim=value_dim,
            softmax_scale=float(scale),
        )
        self.views, self.steps, self.stream = {}, [], stream
        self.plan = None

    def add(self, keyword, which, tensor, own=None, how=None):
        """An argument: `tensor` as it is used, or `own`, a View of it."""
        if tensor is not None:
            self.views[keyword] = view(tensor) if own is None else own
            self.steps.append((keyword, which, how))

    def add_rows(self, prefix, which, cache, pages, page_size, fmt, indices, lengths):
        """A cache and its index lists as one row set; `indices` and `lengths` are (which, tensor, how)."""
        width = indices[1].shape[-1]
        self.fields.update(
            {
                f"{prefix}_rows": "list",
                f"{prefix}_format": fmt,
                f"{prefix}_page_size": page_size,
                f"{prefix}_width": width,
            }
        )
        self.add(f"{prefix}_cache", which, cache, pages)
        self.add(f"{prefix}_indices", indices[0], indices[1], how=indices[2])
        self.add(f"{prefix}_lengths", lengths[0], lengths[1], how=lengths[2])

    def finish(self, device):
        if self.tokens:
            self.plan = cached_plan("attend", problem_text(self.fields), device, stream=self.stream)
            places = self.plan.op.places
            self.arguments = self.plan.arguments(self.views)
            self.steps = [(places[keyword], which, how) for keyword, which, how in self.steps]
            self.outputs = {name: places[name] for name in ("out", "lse", "max_logits")}
        self.views = None
        return self

    def run(self, tensors, **written):
        if not self.tokens:
            return
        arguments = self.plan.arguments_like(self.arguments)
        made = []
        for place, which, how in self.steps:
            tensor = tensors[which]
            if how is not None:
                tensor = how(tensor)
                made.append(tensor)
            arguments[place].data = tensor.data_ptr()
        for name, tensor in written.items():
            arguments[self.outputs[name]].data = tensor.data_ptr()
        self.plan.run_raw(arguments, self.stream)


_calls = {}
_MOST_CALLS, _MOST_PLANS = 1024, 64  # how many different ones are remembered, and plans with a workspace each


def _call_like(tensors, stream, rest, prepare):
    """The _Call for such tensors; `prepare` checks them and makes it when there is none yet."""
    key = (stream, rest, *((t.shape, t.stride(), t.dtype, t.device) if t is not None else None for t in tensors))
    found = _calls.get(key)
    if found is None:
        found = prepare()
        if len(_calls) >= _MOST_CALLS or len({call.plan for call in _calls.values()}) >= _MOST_PLANS:
            _calls.clear()
        _calls[key] = found
    return found


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

    Tensors of new shapes, strides, types or devices are checked; a call like an earlier one only passes its addresses on.
    Dense attention (indices=None) is refused.
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
    tensors = (
        q,
        k_cache,
        indices,
        topk_length,
        extra_k_cache,
        extra_indices_in_kvcache,
        extra_topk_length,
        attn_sink,
        out,
    )
    device = _device_of(q)
    stream = current_stream(device)
    call = _call_like(
        tensors, stream, softmax_scale, lambda: _prepare_decode(function, tensors, softmax_scale, device, stream)
    )
    batch, queries, heads, _ = q.shape
    if out is None:
        out = q.new_empty((batch, queries, heads, 512))
    lse = q.new_empty((batch * queries, heads), dtype=_float32(q))
    call.run(tensors, out=out, lse=lse)
    return out, _plus_infinity(lse).reshape(batch, queries, heads).transpose(1, 2)


def _prepare_decode(function, tensors, softmax_scale, device, stream):
    """Checks the tensors of a decode call and plans it."""
    q, k_cache, indices, topk_length, extra_cache, extra_indices, extra_length, attn_sink, out = tensors
    _check(
        (extra_cache is None) == (extra_indices is None),
        f"{function}: extra_k_cache and extra_indices_in_kvcache are given one without the other",
    )
    _check(extra_length is None or extra_cache is not None, f"{function}: extra_topk_length without extra_k_cache")
    _has_shape(function, "q", q, "bf16", None, None, None, None)
    batch, queries, heads, dim = q.shape
    _check(dim in _ROW_BYTES, f"{function}: q has head dim {dim}, expected 512 (V4) or 576 (V3.2)")
    row_bytes, fmt = _ROW_BYTES[dim]
    tokens = batch * queries

    def flat(tensor):
        return tensor.reshape(tokens, *tensor.shape[2:])

    def each_query(lengths):
        return lengths.repeat_interleave(queries)

    own_q = flat(q)
    call = _Call(own_q, 512, dim**-0.5 if softmax_scale is None else softmax_scale, stream)
    call.add("q", 0, own_q, how=flat)
    for prefix, name, first, cache, picks, lengths in (
        ("window", "", 1, k_cache, indices, topk_length),
        ("entries", "extra_", 4, extra_cache, extra_indices, extra_length),
    ):
        if cache is None:
            continue
        _has_shape(function, f"{name}indices{'_in_kvcache' if name else ''}", picks, "i32", batch, queries, None)
        pages = _cache_pages(function, f"{name}k_cache", cache, row_bytes)
        if lengths is not None:
            _has_shape(function, f"{name}topk_length", lengths, "i32", batch)
        how = None
        if lengths is not None and queries != 1:
            lengths, how = each_query(lengths), each_query
        own_lengths = (first + 2, lengths, how)
        call.add_rows(prefix, first, cache, pages, cache.shape[1], fmt, (first + 1, flat(picks), flat), own_lengths)
    if attn_sink is not None:
        _has_shape(function, "attn_sink", attn_sink, "f32", heads)
        call.add("attn_sink", 7, attn_sink)
    if out is None:
        out = q.new_empty((batch, queries, heads, 512))
    _has_shape(function, "out", out, "bf16", batch, queries, heads, 512)
    merged = view(out)
    _check(
        merged.strides[0] == queries * merged.strides[1] or batch <= 1 or queries <= 1,
        f"{function}: out has strides {list(merged.strides)}, whose batch and query extents do not follow each other",
    )
    step = merged.strides[1] if queries > 1 else merged.strides[0]
    place = ("cuda" if merged.tensor.device else "cpu", merged.tensor.device_index)
    call.views["out"] = View(merged.tensor.data, "bf16", (tokens, heads, 512), (step, *merged.strides[2:]), out, place)
    call.views["lse"] = view(q.new_empty((tokens, heads), dtype=_float32(q)))
    return call.finish(device)


def flash_mla_sparse_fwd(q, kv, indices, sm_scale, d_v=512, attn_sink=None, topk_length=None):
    """Sparse prefill over unpaged bf16 rows: (out bf16 [s_q, h_q, d_v], max_logits f32 [s_q, h_q], lse f32 [s_q, h_q]).

    q bf16 [s_q, h_q, 512 | 576];  kv bf16 [s_kv, 1, same];  indices int32 [s_q, 1, topk], invalid if < 0 or >= s_kv;
    topk_length int32 [s_q]. A query that sees nothing: out 0, max_logits -inf, lse +inf.
    """
    function = "flash_mla_sparse_fwd"
    tensors = (q, kv, indices, topk_length, attn_sink)
    device = _device_of(q)
    stream = current_stream(device)
    call = _call_like(
        tensors, stream, (sm_scale, d_v), lambda: _prepare_prefill(function, tensors, sm_scale, d_v, device, stream)
    )
    tokens, heads, _ = q.shape
    out = q.new_empty((tokens, heads, d_v))
    lse = q.new_empty((tokens, heads), dtype=_float32(q))
    max_logits = q.new_empty((tokens, heads), dtype=_float32(q))
    call.run(tensors, out=out, lse=lse, max_logits=max_logits)
    return out, max_logits, _plus_infinity(lse)


def _prepare_prefill(function, tensors, sm_scale, d_v, device, stream):
    """Checks the tensors of a prefill call and plans it."""
    q, kv, indices, topk_length, attn_sink = tensors
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
    place = ("cuda" if own.tensor.device else "cpu", own.tensor.device_index)
    pages = View(own.tensor.data, "u8", (rows, 2 * dim), (stride, 1), kv, place)

    def flat(picks):
        return picks.reshape(tokens, picks.shape[2])

    call = _Call(q, d_v, sm_scale, stream)
    call.add("q", 0, q)
    call.add_rows("window", 1, kv, pages, 1, "kv_bf16", (2, flat(indices), flat), (3, topk_length, None))
    call.add("attn_sink", 4, attn_sink)
    call.views["out"] = view(q.new_empty((tokens, heads, d_v)))
    for name in ("lse", "max_logits"):
        call.views[name] = view(q.new_empty((tokens, heads), dtype=_float32(q)))
    return call.finish(device)


def _refused(name):
    def dense(*_, **__):
        raise NotImplementedError(f"{name}: dense attention is not DeepSeek-V4's and not offered")

    dense.__name__ = dense.__qualname__ = name
    return dense


# FlashMLA's other names, so that an engine can import them; it calls them for other models.
flash_attn_varlen_func = _refused("flash_attn_varlen_func")
flash_attn_varlen_qkvpacked_func = _refused("flash_attn_varlen_qkvpacked_func")
flash_attn_varlen_kvpacked_func = _refused("flash_attn_varlen_kvpacked_func")
