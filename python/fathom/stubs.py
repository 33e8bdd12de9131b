"""Type stubs of the package from the op table, for editors and type checkers: python -m fathom stubs.

Ops are functions that the library describes when they are first named, so no source file shows their signatures.
"""

import inspect
import pathlib

from . import _ops
from ._library import library

_HEAD = '''"""Written by `python -m fathom stubs` from the op table of libfathom {version}."""

from typing import Any, Optional, Union

from . import compat as compat, reference as reference
from ._layer import Attention as Attention, Cache as Cache, Checkpoint as Checkpoint
from ._machine import doctor as doctor, info as info
from ._ops import Plan as Plan, op as op, ops as ops, plan as plan, supported as supported
from ._rows import apply_sink as apply_sink, dequantize_kv as dequantize_kv, merge_state as merge_state
from ._rows import quantize_kv as quantize_kv, top_k as top_k
from ._views import View as View, view as view

__version__: str
'''
_KINDS = {"capacity": "int", "integer": "int", "real": "float", "word": "str", "numerics": "str"}


def _type(contract, name):
    """What may be given for a parameter of an op: any array, a field's kind of value."""
    if name in contract.places:
        return "Any"
    if name in contract.fields:
        if "bf16" in contract.fields[name].get("words", ()):
            return "Any"  # an element type, by any library's name for it
        return _KINDS.get(contract.fields[name]["kind"], "Any")
    return {"force": "str", "stream": "int"}[name]


def _function(name):
    contract, signature = _ops.op(name), _ops.function_of(name).__signature__
    lines = [f"def {name}(", "    *,"]
    for parameter in signature.parameters.values():
        kind = _type(contract, parameter.name)
        if parameter.default is None and kind != "Any":
            kind = f"Optional[{kind}]"
        given = "" if parameter.default is inspect.Parameter.empty else " = ..."
        lines.append(f"    {parameter.name}: {kind}{given},")
    required = sum(arg.role == "out" for arg in contract.args)
    lines.append(") -> Any:" if required == 1 else ") -> Union[Any, tuple]:")
    lines += [f"    {line}".rstrip() for line in f'"""{contract.documentation()}\n"""'.split("\n")]
    return "\n".join(lines) + "\n"


def text():
    """The stub file of the package."""
    head = _HEAD.format(version=library().fathom_version().decode())
    return "\n\n".join([head, *(_function(name) for name in _ops.ops())])


def write(path=None):
    """Writes the stubs beside the package, or to `path`; returns where."""
    path = pathlib.Path(path) if path else pathlib.Path(__file__).with_name("__init__.pyi")
    path.write_text(text(), encoding="utf-8")
    return path
