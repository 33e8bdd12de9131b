"""torch.ops.fathom.*: the ops of the table inside PyTorch's dispatcher, for torch.compile and CUDA graphs.

    import fathom.torch_ops
    problem = fathom.torch_ops.problem("attend", q=q, window_cache=pages, window_indices=slots, window_rows="list")
    torch.ops.fathom.attend.out(q=q, window_cache=pages, window_indices=slots, problem=problem, out=out, lse=lse)
    out = torch.ops.fathom.attend(q=q, window_cache=pages, window_indices=slots, problem=problem)

NAME.out writes to the tensors it is given, optional outputs among them, and declares what it changes; NAME makes the required
outputs (index has optional ones only, and no NAME). Arguments go by keyword, as in fathom.NAME. `problem` is a line of problem text: what is planned, once for each
text; num_tokens in it is a capacity. They have no derivatives.

Where libfathom_torch.so lies beside libfathom (PyTorch's stable ABI, torch 2.10 or newer), it implements NAME.out; otherwise
this module does, through ctypes: the same schemas, slower calls. `compiled` says which.
"""

import functools

import torch

from . import _library
from ._ops import cached_plan, current_stream, device_of, op, ops, problem_fields, problem_text
from ._views import dtype_name, torch_dtype, view

__all__ = ["compiled", "problem", "schemas"]


def problem(op_name, **given):
    """The problem text that follows from arrays, and from fields given by name, as fathom.NAME infers it."""
    contract = op(op_name)
    views, fields = {}, {}
    for name, value in given.items():
        if name in contract.places and not (name in contract.fields and isinstance(value, (int, float, str))):
            if value is not None:
                views[name] = view(value)
        elif name in contract.fields or name in contract.groups:
            fields[name] = value if isinstance(value, (int, float, str)) else dtype_name(value)
        else:
            raise TypeError(f"{op_name}: there is neither an argument nor a field {name}")
    return problem_text(contract.infer(views, fields)[0])


def schemas(op_name):
    """The schemas of NAME.out and NAME, as libfathom_torch writes them too; an op whose outputs are all optional has no NAME."""
    inputs, outputs, returned, changed = [], [], [], 0
    for arg in op(op_name).args:
        text = "Tensor"
        if arg.written:
            text += f"({chr(ord('a') + changed)}!)"
            changed += 1
        text += f"? {arg.keyword}=None" if arg.optional else f" {arg.keyword}"
        (outputs if arg.role in ("out", "optional out") else inputs).append(text)
        if arg.role == "out":
            returned.append("Tensor")
    inputs += ["str problem", 'str force=""']
    returned = returned[0] if len(returned) == 1 else f"({', '.join(returned)})"
    found = [f"{op_name}.out(*, {', '.join(inputs + outputs)}) -> ()"]
    if returned != "()" or not outputs:
        found.append(f"{op_name}(*, {', '.join(inputs)}) -> {returned}")
    return found


def _made(op_name, device, given, text):
    """Empty required outputs in the sizes that the tensors have, symbolic ones included."""
    contract = op(op_name)
    fields, extents = problem_fields(text), {}
    for arg in contract.args:
        tensor = given.get(arg.keyword)
        if tensor is not None:
            for word, extent in zip(arg.shape.split(), tensor.shape):
                if word.isidentifier():
                    extents.setdefault(word, extent)

    def value(word):
        if word in extents:
            return extents[word]
        return contract._value(word, fields, {})

    shapes = []
    for arg in contract.args:
        if arg.role == "out":
            shape = []
            for words in arg.shape.split():
                product, _, divisor = words.partition("/")
                extent = functools.reduce(lambda a, b: a * b, (value(word) for word in product.split("*")))
                shape.append((extent + int(divisor) - 1) // int(divisor) if divisor else extent)
            shapes.append((shape, torch_dtype(contract.dtype_of(arg, fields))))
    return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in shapes]


def _result(made):
    return made[0] if len(made) == 1 else tuple(made) if made else None


def _register(op_name, library, own_kernels):
    required = [arg.keyword for arg in op(op_name).args if arg.role == "out"]

    def device(given):
        return next(tensor.device for tensor in given.values() if isinstance(tensor, torch.Tensor))

    def make(*, problem, force="", **given):
        made = _made(op_name, device(given), given, problem)
        getattr(torch.ops.fathom, op_name).out(problem=problem, force=force, **given, **dict(zip(required, made)))
        return _result(made)

    def fake(*, problem, force="", **given):
        return _result(_made(op_name, device(given), given, problem))

    def fake_out(**_):
        return None

    def run(*, problem, force="", **given):
        views = {name: view(tensor) for name, tensor in given.items() if tensor is not None}
        place = device_of(views.values())
        stream = current_stream(place)
        cached_plan(op_name, problem, place, force, stream)(stream=stream, **views)

    if len(schemas(op_name)) == 2:
        library.impl(op_name, make, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fathom::{op_name}", fake)
    if own_kernels:
        for key in ("CPU", "CUDA"):
            library.impl(op_name + ".out", run, key)
    torch.library.register_fake(f"fathom::{op_name}.out", fake_out)


def _load():
    path = _library.torch_library()
    if path.exists():
        torch.ops.load_library(str(path))
        return torch.library.Library("fathom", "FRAGMENT"), True
    library = torch.library.Library("fathom", "DEF")
    for op_name in ops():
        for schema in schemas(op_name):
            library.define(schema)
    return library, False


_registered, compiled = _load()
for _name in ops():
    _register(_name, _registered, not compiled)
