"""Ops, plans and runs. What an op takes is read from the library's own op table; nothing here repeats it."""

import ctypes
import functools
import inspect
import math
import mmap
import sys
import threading

from . import _library
from ._library import Status, Tensor, Workspace, WorkspaceSize, byref, call, json_of, library, raise_status
from ._views import View, dtype_name, empty, view

_TENSOR_BYTES = ctypes.sizeof(Tensor)


class Arg:
    """One argument of an op. `keyword` is its name as a Python word: window.cache is window_cache."""

    __slots__ = ("name", "keyword", "role", "optional", "shape", "dtypes", "doc", "written")

    def __init__(self, row):
        self.name, self.role, self.optional = row["name"], row["role"], row["optional"]
        self.shape, self.dtypes, self.doc = row["shape"], row["dtypes"], row["doc"]
        self.keyword = self.name.replace(".", "_")
        self.written = not self.role.endswith("in")


class Op:
    """An op's contract: `args` in order, `fields` of its problem."""

    def __init__(self, name):
        row = json_of("fathom_op_json", name.encode())
        self.name, self.summary, self.formula, self.source = row["name"], row["summary"], row["formula"], row["source"]
        self.args = [Arg(arg) for arg in row["args"]]
        self.fields = {field["name"]: field for field in row["fields"]}
        self.groups = {field["group"] for field in row["fields"] if "group" in field}
        self.places = {arg.keyword: place for place, arg in enumerate(self.args)}

    def documentation(self):
        lines = [self.summary, "", "  " + self.formula, "", "Arguments"]
        for arg in self.args:
            lines.append(f"  {arg.keyword} ({arg.role}) [{arg.shape.replace(' ', ', ')}] {arg.dtypes}: {arg.doc}")
        lines += ["", "Problem fields"]
        for field in self.fields.values():
            values = ", ".join(field["words"]) if "words" in field else field["kind"]
            lines.append(f"  {field['name']} = {field['default']} ({values}): {field['doc']}")
        lines += [
            "",
            "Fields that follow from the arrays' shapes and types may be left out. Outputs that are not given are made",
            "and returned, in the order above; True asks for an optional one.",
            "",
            "Source: " + self.source,
        ]
        return "\n".join(lines)

    # ---- What the arrays say about the problem ----

    def infer(self, views, fields):
        """Fields and free extents that follow from shapes and types of the arrays; `fields` (as given) are kept."""
        extents = {}
        fields = dict(fields)
        spelled, products = set(fields), []
        for arg, array in ((self.args[self.places[name]], array) for name, array in views.items()):
            words = arg.shape.split()
            if len(words) == len(array.shape):
                for word, extent in zip(words, array.shape):
                    if word in self.fields:
                        fields.setdefault(word, extent)
                    elif word.isidentifier():
                        extents.setdefault(word, extent)
                    elif "*" in word and "/" not in word:
                        products.append((word.split("*"), extent))
            dtype = arg.dtypes[1:]
            if arg.dtypes.startswith("$") and self.fields.get(dtype, {}).get("kind") == "word" and dtype not in spelled:
                if (
                    array.dtype in self.fields[dtype].get("words", ())
                    and self.fields[dtype].get("group") not in spelled
                ):
                    fields.setdefault(dtype, array.dtype)
        for words, extent in products:  # num_heads*head_dim gives the one factor that nothing else says
            open_words = [
                word for word in words if word not in fields and self.fields.get(word, {}).get("default") == "0"
            ]
            if len(open_words) == 1 and all(word in self.fields for word in words):
                known = math.prod(
                    int(fields.get(word, self.fields[word]["default"])) for word in words if word != open_words[0]
                )
                if known > 0 and extent % known == 0:
                    fields[open_words[0]] = extent // known
        return fields, extents

    def _value(self, word, fields, extents):
        if word.isdigit():
            return int(word)
        if word in fields:
            return int(fields[word])
        if word in extents:
            return extents[word]
        if word in self.fields:
            return int(self.fields[word]["default"])
        raise ValueError(f"{self.name}: the extent {word} of an output is not known; give the output")

    def shape_of(self, arg, fields, extents):
        """The shape of an argument in numbers: `a*b` multiplies, `/n` divides rounding up."""
        shape = []
        for text in arg.shape.split():
            product, _, divisor = text.partition("/")
            extent = 1
            for word in product.split("*"):
                extent *= self._value(word, fields, extents)
            shape.append(-(-extent // int(divisor)) if divisor else extent)
        return shape

    def dtype_of(self, arg, fields):
        if not arg.dtypes.startswith("$"):
            return arg.dtypes.split("|")[0]
        value = str(fields.get(arg.dtypes[1:], self.fields[arg.dtypes[1:]]["default"]))
        return {"exact": "f32", "served": "bf16"}.get(value, value)


@functools.lru_cache(maxsize=None)
def op(name):
    """The contract of the op called `name`."""
    return Op(name)


@functools.lru_cache(maxsize=None)
def ops():
    """The names of all ops, in the order of the layer's story."""
    return tuple(library().fathom_op_name(i).decode() for i in range(library().fathom_op_count()))


def problem_text(fields):
    """One line of problem text."""

    def text(value):
        if isinstance(value, float):
            return format(value, ".9g")
        return str(value) if isinstance(value, (int, str)) else dtype_name(value)

    return " ".join(f"{name}={text(value)}" for name, value in fields.items())


def problem_fields(text):
    """The fields of a line of problem text, as texts."""
    return dict(pair.split("=", 1) for pair in text.split())


class _HostBlock:
    """Zeroed host memory, aligned to a page."""

    def __init__(self, size):
        self.memory = mmap.mmap(-1, max(size, 1))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


class Call:
    """A run with everything prepared: calling it is one call of the library."""

    __slots__ = ("plan", "_array", "_owners", "_stream")

    def __init__(self, plan, array, owners, stream):
        self.plan, self._array, self._owners, self._stream = plan, array, owners, stream

    def __call__(self):
        plan = self.plan
        with plan._lock:
            if (
                plan._run(plan._pointer, self._array, plan._count, plan._workspace, self._stream, plan._status_address)
                != 0
            ):
                raise_status(plan._status)


class Plan:
    """An implementation chosen for a problem on a device. Make it once, run it often: plan(**arrays).

    A plan owns one workspace, so runs of one plan wait for each other; threads that should not wait make their own.
    """

    def __init__(self, op_name, problem, device="cpu", force="", num_threads=0, stream=None):
        self.op = op(op_name)
        device = _library.device_name(device)
        self.problem, self.device, self._on_host = problem, device, device == "cpu"
        self._owned = _library.Owned(
            "fathom_plan_create",
            "fathom_plan_destroy",
            op_name.encode(),
            problem.encode(),
            _library.device(device, num_threads).pointer,
            force.encode(),
        )
        self._pointer = self._owned.pointer
        self.implementation = library().fathom_plan_implementation(self._pointer).decode()
        self._size = WorkspaceSize()
        call("fathom_plan_workspace_size", self._pointer, byref(self._size))
        total = sum((part + 255) // 256 * 256 for part in self.workspace_bytes)
        self._block = _HostBlock(total) if device == "cpu" else _library.Memory(device, total)
        self._room = Workspace()
        call("fathom_workspace_carve", self._block.address, total, byref(self._size), byref(self._room))
        stream = current_stream(device) if stream is None else stream
        call("fathom_workspace_init", self._pointer, byref(self._room), stream)

        self._count = len(self.op.args)
        self._args = (Tensor * self._count)()
        self._array = ctypes.addressof(self._args)
        self._memory, self._given = memoryview(self._args).cast("B"), ()
        self._places = {
            keyword: slice(place * _TENSOR_BYTES, (place + 1) * _TENSOR_BYTES)
            for keyword, place in self.op.places.items()
        }
        self._bytes = _TENSOR_BYTES * self._count
        self._status = Status()
        self._status_address = ctypes.addressof(self._status)
        self._workspace = ctypes.addressof(self._room)
        self._run = library().fathom_run
        self._lock = threading.Lock()

    @property
    def workspace_bytes(self):
        return self._size.scratch, self._size.counters, self._size.schedule

    def __repr__(self):
        return f"fathom.Plan({self.op.name} on {self.device}: {self.implementation})"

    def _place(self, args, keyword, array):
        """Puts a view among the arguments; returns what must stay alive."""
        place = self.op.places.get(keyword)
        if place is None:
            raise TypeError(f"{self.op.name}: there is no argument {keyword}; it has {', '.join(self.op.places)}")
        if array is None:
            args[place] = Tensor()
            return None
        if type(array) is not View:
            array = view(array)
        if array.read_only and self.op.args[place].written:
            raise ValueError(f"{self.op.name}: {keyword} is read-only, but it is written")
        args[place] = array.tensor
        return array

    def __call__(self, *, stream=None, **arrays):
        """Runs on the arrays, by name (fathom.op(name).args).

        `stream` is a cudaStream_t as a number; left out, it is the one that torch works on, and 0 without torch.
        """
        if stream is None:
            stream = 0 if self._on_host else current_stream(self.device)
        with self._lock:
            memory, places = self._memory, self._places
            given = tuple(arrays)
            if given != self._given:  # arguments of the last run that this one leaves out
                ctypes.memset(self._array, 0, self._bytes)
                self._given = given
            alive = []
            for keyword, array in arrays.items():
                if type(array) is View and keyword in places and not array.read_only:
                    memory[places[keyword]] = array.packed
                else:
                    alive.append(self._place(self._args, keyword, array))
            if self._run(self._pointer, self._array, self._count, self._workspace, stream, self._status_address) != 0:
                raise_status(self._status)
            del alive

    def arguments(self, views):
        """All arguments as a ctypes array, from Views by keyword."""
        args = (Tensor * self._count)()
        for keyword, array in views.items():
            self._place(args, keyword, array)
        return args

    def arguments_like(self, array):
        """A copy of such an array, to put other addresses in."""
        return type(array).from_buffer_copy(array)

    def bind(self, *, stream=None, **arrays):
        """A Call on these arrays and the stream of now. Every call reads and writes their memory: it must keep its place."""
        args = (Tensor * self._count)()
        owners = [self._place(args, keyword, array) for keyword, array in arrays.items()]
        if stream is None:
            stream = current_stream(self.device)
        return Call(self, ctypes.addressof(args), (args, owners), stream)

    def run_raw(self, array, stream):
        """Runs on a ctypes array of all arguments."""
        with self._lock:
            if (
                self._run(
                    self._pointer, ctypes.addressof(array), self._count, self._workspace, stream, self._status_address
                )
                != 0
            ):
                raise_status(self._status)


def plan(op_name, *, device="cpu", force="", num_threads=0, **fields):
    """Plans an op: plan("attend", num_tokens=8, num_heads=64). `force` names an implementation to take."""
    return Plan(op_name, problem_text(fields), device, force, num_threads)


def capacity(count):
    """The next power of two: plans for capacities serve all counts below, so that few of them are made and kept."""
    return 1 << max(count - 1, 0).bit_length()


@functools.lru_cache(maxsize=64)
def cached_plan(op_name, problem, device="cpu", force="", stream=None):
    """Plans of one problem differ by stream: what runs on two streams at once must not share a workspace."""
    return Plan(op_name, problem, device, force, stream=stream)


def current_stream(device):
    """The stream that torch works on, as a number; 0 on the CPU and without torch."""
    torch = sys.modules.get("torch")
    return 0 if device == "cpu" or torch is None else torch.cuda.current_stream(device).cuda_stream


def device_of(views):
    """The device that the views lie on, as Plan names it; the library checks that they agree."""
    first = next((array.tensor for array in views if array is not None and array.tensor.device), None)
    return "cpu" if first is None else f"cuda:{first.device_index}"


def run_once(op_name, given, *, force="", stream=None):
    """Plans by the shapes and types of the arrays, makes missing outputs, runs, returns what was written."""
    contract = op(op_name)
    arrays, fields, wanted = {}, {}, set()
    for name, value in given.items():
        if value is None:
            continue
        if value is True and name in contract.places:
            wanted.add(name)
        elif name in contract.places and not (name in contract.fields and isinstance(value, (int, float, str))):
            arrays[name] = value
        elif name in contract.fields or name in contract.groups:
            fields[name] = value if isinstance(value, (int, float, str)) else dtype_name(value)
        else:
            raise TypeError(f"{op_name}: there is neither an argument nor a field {name}")
    views = {name: view(array) for name, array in arrays.items()}
    fields, extents = contract.infer(views, fields)
    results = []
    for arg in contract.args:
        if arg.role not in ("out", "optional out"):
            continue
        if arg.keyword not in arrays and (not arg.optional or arg.keyword in wanted):
            arrays[arg.keyword] = empty(
                contract.shape_of(arg, fields, extents), contract.dtype_of(arg, fields), list(arrays.values())
            )
            views[arg.keyword] = view(arrays[arg.keyword])
        if arg.keyword in arrays:
            results.append(arrays[arg.keyword])
    unmade = wanted - set(arrays)
    if unmade:
        raise TypeError(f"{op_name}: {', '.join(sorted(unmade))} is True, but only optional outputs can be made")
    for name, value in fields.items():
        if name not in given and contract.fields.get(name, {}).get("kind") == "capacity":
            fields[name] = capacity(value)
    device = device_of(views.values())
    stream = current_stream(device) if stream is None else stream
    cached_plan(op_name, problem_text(fields), device, force, stream)(stream=stream, **views)
    return results[0] if len(results) == 1 else tuple(results)


@functools.lru_cache(maxsize=None)
def function_of(op_name):
    """The op as a Python function, its signature and docstring made from the op table."""
    contract = op(op_name)

    def run(**arguments):
        force, stream = arguments.pop("force", ""), arguments.pop("stream", None)
        return run_once(op_name, arguments, force=force, stream=stream)

    run.__name__ = run.__qualname__ = op_name
    run.__module__ = "fathom"
    run.__doc__ = contract.documentation()
    names = [arg.keyword for arg in contract.args]
    names += [name for name in contract.fields if name not in names] + ["force", "stream"]
    required = {arg.keyword for arg in contract.args if not arg.optional and arg.role != "out"}
    run.__signature__ = inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if name in required else "" if name == "force" else None,
            )
            for name in names
        ]
    )
    return run


def supported(op_name, *, device="cpu", force="", **fields):
    """Whether an implementation takes the problem, and which, or why none does: (True, "cpu"), (False, "cpu: ...")."""
    if op_name not in ops():
        return False, f'there is no op "{op_name}"'
    try:
        answers = json_of(
            "fathom_candidates_json", op_name.encode(), problem_text(fields).encode(), _library.device(device).pointer
        )
    except (ValueError, NotImplementedError) as refusal:
        return False, str(refusal)
    if force:
        answers = [answer for answer in answers if answer["implementation"] == force]
        if not answers:
            return False, f'{op_name} has no implementation "{force}"'
    for answer in answers:
        if not answer["reason"]:
            return True, answer["implementation"]
    return False, "; ".join(f"{answer['implementation']}: {answer['reason']}" for answer in answers)
