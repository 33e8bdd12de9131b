"""Small functions around the ops: merging partial results, KV rows in and out of their formats, top-k."""

import ctypes
import math


from ._library import CacheLayout, byref, call
from ._ops import run_once
from ._views import empty, view

# FlashMLA's names of its row formats, and what Fathom calls them.
LAYOUTS = {"v4_fp8": "kv_e4m3_ue8m0", "v32_fp8": "kv_e4m3_f32", "bf16": "kv_bf16"}


def _module_of(array):
    """numpy, or torch for its tensors: both have stack and reshape."""
    if hasattr(array, "data_ptr"):
        import torch

        return torch
    import numpy

    return numpy


def merge_state(out_a, lse_a, out_b, lse_b, attn_sink=None, out_dtype=None):
    """Attention over two disjoint sets of rows from attention over each: (out, lse).

    out  [num_tokens, num_heads, value_dim] f32 or bf16, without sink;  lse [num_tokens, num_heads] f32, natural log,
    -inf or +inf where a part saw nothing. attn_sink f32 [num_heads] joins the denominator of the result once.
    """
    stack = _module_of(out_a).stack
    return run_once(
        "merge_partials",
        {
            "partial_out": stack([out_a, out_b]),
            "partial_lse": stack([lse_a, lse_b]),
            "attn_sink": attn_sink,
            "lse": True,
            "out_dtype": out_dtype or view(out_a).dtype,
        },
    )


def apply_sink(out, lse, attn_sink, out_dtype=None):
    """The result of attention with a sink, from the result without: out / (1 + exp(attn_sink - lse))."""
    return run_once(
        "merge_partials",
        {
            "partial_out": out[None],
            "partial_lse": lse[None],
            "attn_sink": attn_sink,
            "out_dtype": out_dtype or view(out).dtype,
        },
    )


def row_layout(layout, dim, page_size):
    """Bytes of rows and pages of a layout: FlashMLA's name of it or a cache format of docs/guide/caches.md."""
    rows = CacheLayout()
    call("fathom_cache_layout_of", LAYOUTS.get(layout, layout).encode(), dim, page_size, byref(rows))
    return rows


def _copy_rows(function, layout, dim, page_size, pages, values):
    """Rows of every slot, in order, between pages and values."""
    slots = view((ctypes.c_int64 * values.shape[0])(*range(values.shape[0])))
    call(
        function,
        LAYOUTS.get(layout, layout).encode(),
        dim,
        page_size,
        byref(pages.tensor),
        byref(slots.tensor),
        byref(values.tensor),
    )


def quantize_kv(values, layout="v4_fp8"):
    """KV rows [num_pages, page_size, dim] (or FlashMLA's [num_pages, page_size, 1, dim]) f32 or bf16 to pages.

    Returns u8 [num_pages, page_size, 1, bytes of a row], FlashMLA's container shape; the first stride is the page
    stride, rounded up as engines do. Scales of a page lie at its end, so single rows of this array mean nothing (7.1).
    CUDA tensors make the trip through host memory, here and in dequantize_kv.
    """
    num_pages, page_size, dim = values.shape[0], values.shape[1], values.shape[-1]
    if len(values.shape) not in (3, 4) or len(values.shape) == 4 and values.shape[2] != 1:
        raise ValueError(f"quantize_kv: values has shape {list(values.shape)}, expected [num_pages, page_size, dim]")
    rows = row_layout(layout, dim, page_size)
    stride = rows.page_stride
    device = values.device if view(values).tensor.device else None
    if device is not None:
        values = values.cpu()
    pages = empty((num_pages, stride), "u8", [values])
    pages[...] = 0
    count = num_pages * page_size
    if count:
        packed = values.reshape(count, dim)
        _copy_rows("fathom_cache_write", layout, dim, page_size, view(pages), view(packed))
    width = rows.row_bytes + rows.footer_bytes
    if device is not None:
        pages = pages.to(device)
    if hasattr(pages, "data_ptr"):
        return pages.as_strided((num_pages, page_size, 1, width), (stride, width, width, 1))
    import numpy

    return numpy.lib.stride_tricks.as_strided(pages, (num_pages, page_size, 1, width), (stride, width, width, 1))


def dequantize_kv(pages, layout="v4_fp8", dim=None, dtype="f32"):
    """What quantize_kv wrote, as [num_pages, page_size, dim] f32 or bf16."""
    own = view(pages, "u8")
    if own.tensor.device:
        return dequantize_kv(pages.cpu(), layout, dim, dtype).to(pages.device)
    if len(own.shape) != 4 or own.shape[2] != 1:
        raise ValueError(f"dequantize_kv: pages has shape {list(own.shape)}, expected [num_pages, page_size, 1, bytes]")
    num_pages, page_size, _, width = own.shape
    name = LAYOUTS.get(layout, layout)
    dim = dim or {"kv_e4m3_ue8m0": 512, "kv_e4m3_f32": 576, "kv_bf16": width // 2, "kv_f32": width // 4}.get(name, 0)
    rows = row_layout(layout, dim, page_size)
    if rows.row_bytes + rows.footer_bytes != width:
        raise ValueError(
            f"dequantize_kv: rows have {width} bytes, expected {rows.row_bytes + rows.footer_bytes} for {layout}"
        )
    values = empty((num_pages, page_size, dim), dtype, [pages])
    count = num_pages * page_size
    if count:
        _copy_rows("fathom_cache_read", layout, dim, page_size, pages_view(own), view(values.reshape(count, dim)))
    return values


def pages_view(container):
    """FlashMLA's container [num_pages, page_size, 1, bytes] as the pages it stands for: u8 [num_pages, page bytes]."""
    own = view(container, "u8")
    num_pages, page_size, _, width = own.shape
    page_stride, row_stride, _, byte_stride = own.strides
    if byte_stride != 1 or page_size > 1 and row_stride != width:
        raise ValueError(
            f"fathom: pages have strides {list(own.strides)}, expected rows of {width} bytes to follow each other"
        )
    if num_pages <= 1:
        page_stride = page_size * width  # says nothing, and may be anything
    tensor = own.tensor
    return type(own)(
        tensor.data,
        "u8",
        (num_pages, page_size * width),
        (page_stride, 1),
        own.owner,
        ("cuda" if tensor.device else "cpu", tensor.device_index),
        own.read_only,
    )


def top_k(scores, k, lengths=None, sorted=False):
    """The k largest of every row of `scores` f32 [rows, columns]: (values, columns i32), both [rows, k].

    Ties go to the smaller column, NaN ranks below -inf, and the answer is the same on every device and run. `lengths`
    i32 [rows] cuts rows short; where fewer than k are left, columns are -1 and values -inf. Columns come ascending;
    with `sorted`, values come descending (equal ones by column).
    """
    if not 1 <= k <= 1 << 20:
        raise ValueError(f"top_k: k is {k}, expected 1 to {1 << 20}")
    columns = run_once("select_topk", {"scores": scores, "lengths": lengths, "topk": k})
    if hasattr(scores, "data_ptr"):
        values = scores.gather(1, columns.clamp(min=0).long()) if scores.shape[1] else scores.new_empty(columns.shape)
        values = values.masked_fill(columns < 0, -math.inf)
        if sorted:
            nan = values.isnan()
            rank = (-values).masked_fill(nan, math.inf)
            for key in (lambda: nan.byte(), lambda: rank, lambda: (columns < 0).byte()):  # the last counts most
                order = key().argsort(dim=1, stable=True)
                values, columns, nan, rank = (table.gather(1, order) for table in (values, columns, nan, rank))
        return values, columns
    import numpy

    scores = numpy.asarray(scores)
    values = (
        numpy.take_along_axis(scores, numpy.maximum(columns, 0), 1)
        if scores.shape[1]
        else numpy.empty(columns.shape, "f4")
    )
    values = numpy.where(columns < 0, numpy.float32(-math.inf), values)
    if sorted:
        rank = numpy.where(numpy.isnan(values), -math.inf, values)
        order = numpy.lexsort((columns, numpy.isnan(values), -rank, columns < 0), axis=1)
        values, columns = numpy.take_along_axis(values, order, 1), numpy.take_along_axis(columns, order, 1)
    return values, columns
