"""Fathom: the attention layer of DeepSeek-V4, on paged FP8 caches.

Every op of the library is a function here (fathom.ops() lists them, help(fathom.attend) describes one);
fathom.plan makes a plan once for many runs. fathom.Attention and fathom.Cache are the whole layer from a checkpoint,
fathom.reference its definition in NumPy, fathom.compat.flash_mla FlashMLA's interface, fathom.hf a transformers model on
Fathom, fathom.draft the functions of an early draft. NumPy and torch are used where they are, never needed.
"""

from . import _ops
from ._machine import doctor, info
from ._ops import Plan, op, ops, plan, supported
from ._rows import apply_sink, dequantize_kv, merge_state, quantize_kv, top_k
from ._views import View, view

__all__ = [
    "Attention",
    "Cache",
    "Checkpoint",
    "Plan",
    "View",
    "apply_sink",
    "dequantize_kv",
    "doctor",
    "info",
    "merge_state",
    "op",
    "ops",
    "plan",
    "quantize_kv",
    "supported",
    "top_k",
    "view",
]


_MODULES = ("reference", "compat", "hf", "draft", "torch_ops")


def __getattr__(name):
    # Ops are looked up in the library when they are first named, so that importing fathom loads nothing.
    if name in ("Attention", "Cache", "Checkpoint"):
        from . import _layer

        return getattr(_layer, name)
    if name in _MODULES:
        import importlib

        return importlib.import_module("." + name, __name__)
    if name == "__version__":
        from ._library import library

        return library().fathom_version().decode()
    if not name.startswith("_") and name in _ops.ops():
        return _ops.function_of(name)
    raise AttributeError(f"module 'fathom' has no attribute {name!r}")


def __dir__():
    return sorted({*__all__, *ops(), *_MODULES})
