"""The whole layer: Checkpoint, Attention (a layer's weights and plan) and Cache (the pages of layers of one kind)."""

import collections.abc
import ctypes
import functools
import json
import os
import pathlib
import weakref

from . import _library
from ._library import Memory, Owned, PoolOptions, Rope, Tensor, byref, c_int32, c_int64, call, library, text_of
from ._ops import Plan, capacity, current_stream, op, problem_fields, problem_text
from ._views import ITEM_BYTES, View, empty, view

CACHES = ("window", "entries", "index_keys", "state", "index_state")
_STEP_ARGS = ("positions", "index_state_table")  # first and last of a step's arguments


class Checkpoint(collections.abc.Mapping):
    """A safetensors file or a folder of them: a mapping from names to Views, read when asked for."""

    def __init__(self, path):
        self._owned = Owned("fathom_checkpoint_open", "fathom_checkpoint_destroy", os.fsencode(path))
        self._names = None

    def __getitem__(self, name):
        if name not in self._all():
            raise KeyError(name)
        tensor = Tensor()
        call("fathom_checkpoint_tensor", self._owned.pointer, name.encode(), byref(tensor))
        found = View(
            tensor.data,
            _library.DTYPES[tensor.dtype],
            tensor.shape[: tensor.rank],
            tensor.strides[: tensor.rank],
            self._owned,
            read_only=True,
        )
        return found

    def _all(self):
        if self._names is None:
            pointer = self._owned.pointer
            self._names = {
                library().fathom_checkpoint_name(pointer, i).decode(): i
                for i in range(library().fathom_checkpoint_num_tensors(pointer))
            }
        return self._names

    def __iter__(self):
        return iter(self._all())

    def __len__(self):
        return len(self._all())


def _config(source):
    """A configuration from a folder, a file, a dict, or the name of a preset ("v4-flash", "v4-pro")."""
    if isinstance(source, collections.abc.Mapping):
        return Owned("fathom_config_parse", "fathom_config_destroy", json.dumps(source).encode())
    path = pathlib.Path(source)
    if not path.exists() and path.parent == pathlib.Path("."):
        return Owned("fathom_config_preset", "fathom_config_destroy", str(source).encode())
    return Owned(
        "fathom_config_read", "fathom_config_destroy", os.fsencode(path / "config.json" if path.is_dir() else path)
    )


@functools.lru_cache(maxsize=8)
def _rope_table(device, rope_dim, theta, factor, beta_fast, beta_slow, original_length, count):
    """Rows 0 .. count - 1 of a rotary table on a device; layers of a kind share it."""
    memory = (ctypes.c_float * (count * rope_dim))()
    table = view(memory, shape=(count, rope_dim))
    call(
        "fathom_rope_table",
        byref(Rope(rope_dim, theta, factor, beta_fast, beta_slow, original_length)),
        0,
        byref(table.tensor),
    )
    tensors = [table.tensor]
    kept = _move(tensors, device)
    return tensors[0], kept or table


def _bytes_spanned(tensor):
    extents = list(zip(tensor.shape[: tensor.rank], tensor.strides[: tensor.rank]))
    if any(extent == 0 for extent, _ in extents):
        return 0
    return (1 + sum((extent - 1) * stride for extent, stride in extents)) * ITEM_BYTES[_library.DTYPES[tensor.dtype]]


def _move(tensors, device):
    """Copies those that lie in host memory to the device, strides and all; returns the memory that holds them."""
    if device == "cpu":
        return None
    index = int(device.partition(":")[2])
    moved = [tensor for tensor in tensors if tensor.rank and not tensor.device]
    rooms = [(_bytes_spanned(tensor) + 255) // 256 * 256 for tensor in moved]
    memory = Memory(device, sum(rooms))
    pointer, address = _library.device(device).pointer, memory.address or 0
    for tensor, room in zip(moved, rooms):
        call("fathom_copy", pointer, address, tensor.data, _bytes_spanned(tensor), None)
        tensor.data, tensor.device, tensor.device_index = address, 1, index
        address += room
    call("fathom_synchronize", pointer, None)  # what was copied may be freed now, and any stream may read the copy
    return memory


_plans = weakref.WeakValueDictionary()


def _plan_of(*key):
    """The plan of (problem, device, force, num_threads, stream); layers that agree in all of them share its workspace."""
    found = _plans.get(key)
    if found is None:
        problem, device, force, num_threads, stream = key
        found = _plans[key] = Plan("layer", problem, device, force, num_threads, stream)
    return found


class Attention:
    """One attention layer with its weights, planned for steps of at most `max_tokens` tokens of `max_seqs` sequences.

    config         folder, config.json, dict, or "v4-flash" / "v4-pro"
    checkpoint     safetensors file or folder, or a Checkpoint; left out where `config` is a folder that holds both.
                   Or the weights themselves, as a dict of arrays that are used where they lie: those arguments of the
                   op "layer" that follow rope_table, by name ("wq_a", "q_norm", ...)
    layer          number in compress_ratios; MTP layers follow the decoder's
    numerics       "served": bf16 activations, FP8 rows, as the model was trained; "exact": f32, nothing quantised
    max_positions  positions past it are refused; the rotary table has a row for each
    out_dtype      "bf16" or "f32"; the default is that of x
    rank, world    a tensor-parallel part; its output is a partial sum (ask for "f32")
    device         "cpu", "cuda" or "cuda:N": weights are copied there, x and the results lie there
    fields         further fields of the layer's problem: window_page_size=256, index_topk=..., ...

    Layers with the same problem on one device share plans, so their runs wait for each other. A plan is made for each
    power of two of tokens, with the first step of that size.
    """

    def __init__(
        self,
        config,
        checkpoint=None,
        layer=0,
        *,
        numerics="served",
        max_tokens=256,
        max_seqs=8,
        max_positions=65536,
        out_dtype=None,
        rank=0,
        world=1,
        device="cpu",
        force="",
        num_threads=0,
        **fields,
    ):
        self.device = _library.device_name(device)
        settings = _config(config)
        contract = op("layer")
        self._count = len(contract.args)
        self._args = (Tensor * self._count)()
        if checkpoint is None:
            checkpoint = config
        if isinstance(checkpoint, collections.abc.Mapping) and not isinstance(checkpoint, Checkpoint):
            if world != 1:
                raise ValueError("fathom.Attention: weights given as arrays are a whole layer; world is not 1")
            found = problem_fields(text_of("fathom_config_layer_problem", settings.pointer, layer, numerics.encode()))
            self._weights = _place_arrays(contract, checkpoint, self._args, found)
        else:
            if not isinstance(checkpoint, Checkpoint):
                checkpoint = Checkpoint(checkpoint)
            self._weights = Owned(
                "fathom_weights_load",
                "fathom_weights_destroy",
                checkpoint._owned.pointer,
                settings.pointer,
                layer,
                rank,
                world,
            )
            found = problem_fields(text_of("fathom_weights_problem", self._weights.pointer, numerics.encode()))
            call("fathom_weights_place", self._weights.pointer, ctypes.addressof(self._args), self._count)
        moved = _move(list(self._args), self.device)
        if moved and not isinstance(self._weights, list):
            self._weights = None  # all of them were copied
        self._weights = (self._weights, moved)
        found.update(num_tokens=max_tokens, num_seqs=max_seqs, **fields)
        found["out_dtype"] = out_dtype or ("f32" if numerics == "exact" else "bf16")
        self.layer, self.max_tokens, self.max_positions = layer, max_tokens, max_positions
        self.problem = problem_text(found)
        self.fields = {
            **{name: field["default"] for name, field in contract.fields.items()},
            **problem_fields(self.problem),
        }
        self._choices = (self.device, force, num_threads)
        self._plans = {}
        self.plan = self._plan_for(1, current_stream(self.device))

        rope = Rope()
        call("fathom_config_layer_rope", settings.pointer, layer, byref(rope))
        self._args[contract.places["rope_table"]], self._rope = _rope_table(
            self.device, *(getattr(rope, name) for name, _ in Rope._fields_), max_positions
        )

    def _plan_for(self, tokens, stream):
        """The plan of the next larger capacity: a step of one token needs neither the room nor the tiles of a prefill.

        What runs on two streams at once must not share a workspace, so plans differ by stream too.
        """
        tokens = min(capacity(tokens), self.max_tokens)
        plan = self._plans.get((tokens, stream))
        if plan is None:
            problem = problem_text({**problem_fields(self.problem), "num_tokens": tokens})
            plan = self._plans[tokens, stream] = _plan_of(problem, *self._choices, stream)
        return plan

    @property
    def hidden_size(self):
        return int(self.fields["hidden_size"])

    @property
    def compress_ratio(self):
        return int(self.fields["compress_ratio"])

    def __repr__(self):
        kind = {0: "window", 4: "csa"}.get(self.compress_ratio, "hca")
        return f"fathom.Attention(layer {self.layer}, {kind}, {self.fields['numerics']}, {self.plan.implementation})"

    def __call__(self, x, step, out=None, *, stream=None, **wanted):
        """The layer's output for the tokens of `step`, sequence after sequence: x [num_tokens, hidden_size], normed.

        x is bf16 with "served" and f32 with "exact". wanted: topk_entries, index_scores, attn_out, arrays to write to.
        On CUDA it runs on the cache's stream, and refuses tensors of torch working on another; `stream` says that the
        caller orders the two.
        """
        cache = step.cache
        if cache._begun is not step:
            raise ValueError("fathom.Attention: the step has not begun or is over")
        if self not in cache.layers:
            raise ValueError(f"fathom.Attention: {self!r} is not one of the cache's layers")
        if step.last_position >= self.max_positions:
            raise ValueError(
                f"fathom.Attention: position {step.last_position} is past max_positions={self.max_positions}"
            )
        unknown = set(wanted) - {"topk_entries", "index_scores", "attn_out"}
        if unknown:
            raise TypeError(f"fathom.Attention: there is no output {', '.join(sorted(unknown))}")
        if stream is None:
            stream = cache.stream
            if hasattr(x, "data_ptr") and current_stream(self.device) != stream:
                raise ValueError("fathom.Attention: torch works on another stream than the cache was made on")
        if out is None:
            out = empty((step.num_tokens, self.hidden_size), self.fields["out_dtype"], [x])
        places = self.plan.op.places
        args = (Tensor * self._count).from_buffer_copy(self._args)
        call(
            "fathom_pool_place_caches",
            cache._owned.pointer,
            cache.layers.index(self),
            ctypes.addressof(args),
            self._count,
        )
        first, last = (places[name] for name in _STEP_ARGS)
        args[first : last + 1] = step._args[first : last + 1]
        alive = [self.plan._place(args, name, array) for name, array in {"x": x, "out": out, **wanted}.items()]
        if args[places["x"]].shape[0] != step.num_tokens:
            raise ValueError(
                f"fathom.Attention: x has {args[places['x']].shape[0]} tokens, the step has {step.num_tokens}"
            )
        self._plan_for(step.num_tokens, stream).run_raw(args, stream)
        del alive
        return out


def _place_arrays(contract, arrays, args, fields):
    """Puts weights given as arrays among the layer's arguments, their types among its fields; returns their views."""
    names = [arg.keyword for arg in contract.args]
    names = names[names.index("rope_table") + 1 : names.index("window")]
    unknown = set(arrays) - set(names)
    if unknown:
        raise TypeError(
            f"fathom.Attention: there is no weight {', '.join(sorted(unknown))}; there are {', '.join(names)}"
        )
    views = {name: view(array) for name, array in arrays.items() if array is not None}
    for name, weight in views.items():
        place = contract.places[name]
        args[place] = weight.tensor
        dtypes = contract.args[place].dtypes
        if dtypes.startswith("$"):
            fields[dtypes[1:]] = weight.dtype
    return list(views.values())


class Step:
    """Further tokens of some sequences: begun by `with`, committed at its end, abandoned if that is an exception."""

    __slots__ = ("cache", "sequences", "counts", "num_tokens", "last_position", "_args")

    def __init__(self, cache, sequences, counts):
        if len(sequences) != len(counts):
            raise ValueError(f"fathom.Cache: {len(sequences)} sequences and {len(counts)} counts")
        self.cache, self.sequences, self.counts = cache, list(sequences), list(counts)
        self.num_tokens, self.last_position = sum(self.counts), -1
        self._args = (Tensor * len(op("layer").args))()

    def __enter__(self):
        cache, number = self.cache, len(self.sequences)
        if cache._begun is not None:
            raise ValueError("fathom.Cache: a step has begun and not ended")
        lengths = [cache.length(sequence) for sequence in self.sequences]
        call(
            "fathom_pool_begin_step",
            cache._owned.pointer,
            (c_int32 * max(number, 1))(*self.sequences),
            (c_int64 * max(number, 1))(*self.counts),
            number,
            ctypes.addressof(self._args),
            len(self._args),
        )
        self.last_position = max((length + count - 1 for length, count in zip(lengths, self.counts)), default=-1)
        cache._begun = self
        return self

    def __exit__(self, kind, *_):
        self.cache._begun = None
        if kind is None:
            call("fathom_pool_commit", self.cache._owned.pointer)
        else:
            library().fathom_pool_abandon(self.cache._owned.pointer)


class Cache:
    """Pages, block tables and bookkeeping for sequences in layers of one kind: the page pool of docs/guide/caches.md.

    layers           the Attention layers that share page numbers; they must have the same problem
    sequences        how many sequences of `tokens` tokens fit; forks count
    rollback_tokens  how far back roll_back and fork always reach
    stream           CUDA: a cudaStream_t as a number, on which pages are copied and layers run; torch's, if left out
    pages            pages of single caches in place of those that follow: window_pages=..., entries_pages=..., ...

        cache = fathom.Cache([attention], sequences=1, tokens=4096)
        sequence = cache.add()
        with cache.step([sequence], [len(x)]) as step:
            y = attention(x, step)

    A step that ends in an exception leaves no trace. Not for several threads at once.
    """

    def __init__(self, layers, sequences, tokens, rollback_tokens=0, page_order_seed=0, stream=None, **pages):
        self.layers = [layers] if isinstance(layers, Attention) else list(layers)
        if not self.layers:
            raise ValueError("fathom.Cache: there are no layers")
        problem = self.layers[0].problem
        kind = _pool_fields(self.layers[0])
        self.device = self.layers[0].device
        self.stream = current_stream(self.device) if stream is None else stream
        for other in self.layers[1:]:
            if _pool_fields(other) != kind:
                raise ValueError(
                    f"fathom.Cache: {other!r} and {self.layers[0]!r} do not have the same kind, formats, sizes and device"
                )
        options = PoolOptions()
        call("fathom_pool_options_for", problem.encode(), sequences, tokens, rollback_tokens, byref(options))
        options.num_layers, options.page_order_seed, options.stream = len(self.layers), page_order_seed, self.stream
        for name, count in pages.items():
            if not name.endswith("_pages") or not hasattr(options, name):
                raise TypeError(f"fathom.Cache: there is no option {name}")
            setattr(options, name, count)
        self._owned = Owned(
            "fathom_pool_create",
            "fathom_pool_destroy",
            problem.encode(),
            byref(options),
            _library.device(self.device).pointer,
        )
        self._begun = None

    def add(self):
        """A new, empty sequence: its number."""
        number = c_int32()
        call("fathom_pool_add_sequence", self._owned.pointer, byref(number))
        return number.value

    def remove(self, sequence):
        """Frees a sequence's pages; its number may be given out again."""
        call("fathom_pool_remove_sequence", self._owned.pointer, sequence)

    def length(self, sequence):
        """Tokens of a sequence so far."""
        tokens = c_int64()
        call("fathom_pool_length", self._owned.pointer, sequence, byref(tokens))
        return tokens.value

    def step(self, sequences, counts):
        """Makes room for counts[i] further tokens of sequences[i], all or nothing. Use it in a `with`: layers run
        inside, the end commits, an exception abandons."""
        return Step(self, sequences, counts)

    def roll_back(self, sequence, tokens):
        """Takes back the last `tokens` tokens, as if they had never been there."""
        call("fathom_pool_roll_back", self._owned.pointer, sequence, tokens)

    def fork(self, sequence, tokens=None):
        """A new sequence that shares the first `tokens` tokens (all, if left out)."""
        number = c_int32()
        call(
            "fathom_pool_fork",
            self._owned.pointer,
            sequence,
            self.length(sequence) if tokens is None else tokens,
            byref(number),
        )
        return number.value

    def snapshot(self, sequence):
        """All that later steps of a sequence need, as bytes."""
        size = c_int64()
        call("fathom_pool_snapshot", self._owned.pointer, sequence, None, 0, byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        call("fathom_pool_snapshot", self._owned.pointer, sequence, buffer, size.value, byref(size))
        return buffer.raw[: size.value]

    def restore(self, snapshot):
        """A new sequence from a snapshot, of this cache or of one with the same formats, sizes and number of layers."""
        number = c_int32()
        call("fathom_pool_restore", self._owned.pointer, bytes(snapshot), len(snapshot), byref(number))
        return number.value

    def num_free_pages(self, cache="window"):
        return library().fathom_pool_num_free_pages(self._owned.pointer, CACHES.index(cache))

    def block_table(self, sequence, cache="window"):
        """Page ids of a sequence, in order; -1 where a page was released."""
        size = c_int64()
        arguments = (self._owned.pointer, sequence, CACHES.index(cache))
        call("fathom_pool_block_table", *arguments, None, 0, byref(size))
        pages = (c_int32 * max(size.value, 1))()
        call("fathom_pool_block_table", *arguments, pages, size.value, byref(size))
        return list(pages[: size.value])

    def pages(self, layer=0, cache="window"):
        """The pages of one cache of a layer, as a View u8 [pages, page bytes]; None where the layer kind has none."""
        args = (Tensor * len(op("layer").args))()
        call("fathom_pool_place_caches", self._owned.pointer, layer, ctypes.addressof(args), len(args))
        tensor = args[op("layer").places[CACHES[CACHES.index(cache)]]]
        if not tensor.rank:
            return None
        place = ("cuda" if tensor.device else "cpu", tensor.device_index)
        return View(tensor.data, "u8", tensor.shape[:2], tensor.strides[:2], self._owned, place)


def _pool_fields(layer):
    """What layers that share a pool must have in common."""
    return {"device": layer.device} | {
        name: value
        for name, value in layer.fields.items()
        if name.endswith(("_format", "_page_size"))
        or name in ("num_tokens", "num_seqs", "window", "compress_ratio", "head_dim", "index_dim", "max_entries")
    }
