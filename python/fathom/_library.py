"""libfathom: where it lies, its C structs and functions (include/fathom/c/fathom.h), and its statuses as exceptions."""

import ctypes
import functools
import json
import os
import pathlib
from ctypes import POINTER, byref, c_char_p, c_float, c_int16, c_int32, c_int64, c_uint8, c_uint64, c_void_p

ABI_VERSION = 3
DTYPES = ("f32", "bf16", "e4m3", "e2m1x2", "ue8m0", "i32", "i64", "u8")  # in the order of fathom_dtype
MAX_RANK = 4


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("dtype", c_uint8),
        ("device", c_uint8),
        ("device_index", c_int16),
        ("rank", c_int32),
        ("shape", c_int64 * MAX_RANK),
        ("strides", c_int64 * MAX_RANK),
    ]


class Status(ctypes.Structure):
    _fields_ = [("code", c_int32), ("text", ctypes.c_char * 1000)]


class WorkspaceSize(ctypes.Structure):
    _fields_ = [("scratch", c_int64), ("counters", c_int64), ("schedule", c_int64)]


class Buffer(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("bytes", c_int64)]


class Workspace(ctypes.Structure):
    _fields_ = [("scratch", Buffer), ("counters", Buffer), ("schedule", Buffer)]


class Rope(ctypes.Structure):
    _fields_ = [
        ("rope_dim", c_int32),
        ("theta", c_float),
        ("factor", c_float),
        ("beta_fast", c_float),
        ("beta_slow", c_float),
        ("original_length", c_int64),
    ]


class CacheLayout(ctypes.Structure):
    _fields_ = [
        ("dim", c_int32),
        ("row_bytes", c_int32),
        ("footer_bytes", c_int32),
        ("page_alignment", c_int32),
        ("page_bytes", c_int64),
        ("page_stride", c_int64),
    ]


class PoolOptions(ctypes.Structure):
    _fields_ = [
        ("num_layers", c_int32),
        ("rollback_tokens", c_int32),
        ("window_pages", c_int64),
        ("entries_pages", c_int64),
        ("index_pages", c_int64),
        ("state_pages", c_int64),
        ("index_state_pages", c_int64),
        ("sequence_tokens", c_int64),
        ("page_order_seed", c_uint64),
        ("stream", c_void_p),
    ]


_TENSOR, _SIZE = POINTER(Tensor), POINTER(c_int64)
_TEXT = [c_void_p, c_int64, _SIZE]  # buffer, capacity, size
_HANDLE = POINTER(c_void_p)

# Functions that return a fathom_code and take a fathom_status last: the arguments before it.
_CHECKED = {
    "fathom_device_create": [c_char_p, c_int32, _HANDLE],
    "fathom_device_json": [c_void_p, *_TEXT],
    "fathom_plan_create": [c_char_p, c_char_p, c_void_p, c_char_p, _HANDLE],
    "fathom_plan_workspace_size": [c_void_p, POINTER(WorkspaceSize)],
    "fathom_workspace_carve": [c_void_p, c_int64, POINTER(WorkspaceSize), POINTER(Workspace)],
    "fathom_workspace_init": [c_void_p, POINTER(Workspace), c_void_p],
    "fathom_memory_create": [c_void_p, c_int64, _HANDLE],
    "fathom_copy": [c_void_p, c_void_p, c_void_p, c_int64, c_void_p],
    "fathom_synchronize": [c_void_p, c_void_p],
    "fathom_op_json": [c_char_p, *_TEXT],
    "fathom_candidates_json": [c_char_p, c_char_p, c_void_p, *_TEXT],
    "fathom_rope_table": [POINTER(Rope), c_int64, _TENSOR],
    "fathom_cache_layout_of": [c_char_p, c_int32, c_int64, POINTER(CacheLayout)],
    "fathom_cache_write": [c_char_p, c_int32, c_int64, _TENSOR, _TENSOR, _TENSOR],
    "fathom_cache_read": [c_char_p, c_int32, c_int64, _TENSOR, _TENSOR, _TENSOR],
    "fathom_config_read": [c_char_p, _HANDLE],
    "fathom_config_parse": [c_char_p, _HANDLE],
    "fathom_config_preset": [c_char_p, _HANDLE],
    "fathom_config_layer_problem": [c_void_p, c_int32, c_char_p, *_TEXT],
    "fathom_config_layer_rope": [c_void_p, c_int32, POINTER(Rope)],
    "fathom_checkpoint_open": [c_char_p, _HANDLE],
    "fathom_checkpoint_tensor": [c_void_p, c_char_p, _TENSOR],
    "fathom_weights_load": [c_void_p, c_void_p, c_int32, c_int32, c_int32, _HANDLE],
    "fathom_weights_problem": [c_void_p, c_char_p, *_TEXT],
    "fathom_weights_place": [c_void_p, c_void_p, c_int32],
    "fathom_pool_options_for": [c_char_p, c_int64, c_int64, c_int32, POINTER(PoolOptions)],
    "fathom_pool_create": [c_char_p, POINTER(PoolOptions), c_void_p, _HANDLE],
    "fathom_pool_add_sequence": [c_void_p, POINTER(c_int32)],
    "fathom_pool_remove_sequence": [c_void_p, c_int32],
    "fathom_pool_length": [c_void_p, c_int32, _SIZE],
    "fathom_pool_block_table": [c_void_p, c_int32, c_int32, *_TEXT],
    "fathom_pool_begin_step": [c_void_p, POINTER(c_int32), _SIZE, c_int32, c_void_p, c_int32],
    "fathom_pool_commit": [c_void_p],
    "fathom_pool_place_caches": [c_void_p, c_int32, c_void_p, c_int32],
    "fathom_pool_roll_back": [c_void_p, c_int32, c_int64],
    "fathom_pool_fork": [c_void_p, c_int32, c_int64, POINTER(c_int32)],
    "fathom_pool_snapshot": [c_void_p, c_int32, *_TEXT],
    "fathom_pool_restore": [c_void_p, c_char_p, c_int64, POINTER(c_int32)],
}
# The others: result, arguments.
_PLAIN = {
    "fathom_abi_version": (c_int32, []),
    "fathom_version": (c_char_p, []),
    "fathom_cuda_count": (c_int32, []),
    "fathom_op_count": (c_int32, []),
    "fathom_op_name": (c_char_p, [c_int32]),
    "fathom_plan_implementation": (c_char_p, [c_void_p]),
    "fathom_device_destroy": (None, [c_void_p]),
    "fathom_plan_destroy": (None, [c_void_p]),
    "fathom_memory_destroy": (None, [c_void_p]),
    "fathom_memory_data": (c_void_p, [c_void_p]),
    "fathom_config_destroy": (None, [c_void_p]),
    "fathom_config_num_layers": (c_int32, [c_void_p]),
    "fathom_checkpoint_destroy": (None, [c_void_p]),
    "fathom_checkpoint_num_tensors": (c_int64, [c_void_p]),
    "fathom_checkpoint_name": (c_char_p, [c_void_p, c_int64]),
    "fathom_weights_destroy": (None, [c_void_p]),
    "fathom_pool_destroy": (None, [c_void_p]),
    "fathom_pool_num_free_pages": (c_int64, [c_void_p, c_int32]),
    "fathom_pool_abandon": (None, [c_void_p]),
    # Addresses as plain integers: the fastest form ctypes knows, for the one function of the hot path.
    "fathom_run": (c_int32, [c_void_p, c_void_p, c_int32, c_void_p, c_void_p, c_void_p]),
}

# invalid_argument, unsupported, insufficient_workspace, resource_exhausted, device_error
_EXCEPTIONS = {1: ValueError, 2: NotImplementedError, 3: ValueError, 4: MemoryError, 5: RuntimeError}


def raise_status(status):
    """The status of a call that failed, as the exception of its code; the text is the library's own sentence."""
    raise _EXCEPTIONS.get(status.code, RuntimeError)(status.text.decode("utf-8", "replace"))


def candidate_paths():
    """Where the library may lie, in the order it is looked for."""
    named = os.environ.get("FATHOM_LIBRARY")
    if named:
        return [pathlib.Path(named)]
    here = pathlib.Path(__file__).resolve().parent
    built = sorted(
        here.parent.parent.glob("build/*/src/libfathom.so"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    return [here / "libfathom.so", *built]


@functools.lru_cache(maxsize=None)
def library():
    """The loaded library, its functions declared."""
    paths = candidate_paths()
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise ImportError(
            "fathom: there is no libfathom.so at "
            + ", ".join(map(str, paths))
            + "; set FATHOM_LIBRARY to its path, or run ./run build"
        )
    loaded = ctypes.CDLL(str(found))
    loaded.fathom_abi_version.restype = c_int32
    version = loaded.fathom_abi_version()
    if version != ABI_VERSION:
        raise ImportError(
            f"fathom: {found} has C interface {version}, expected {ABI_VERSION}: package and library differ"
        )
    for name, arguments in _CHECKED.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = c_int32, [*arguments, POINTER(Status)]
    for name, (result, arguments) in _PLAIN.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    loaded.path = str(found)
    return loaded


def torch_library():
    """Where libfathom_torch.so is expected; FATHOM_TORCH_LIBRARY names another place."""
    named = os.environ.get("FATHOM_TORCH_LIBRARY")
    return pathlib.Path(named) if named else pathlib.Path(library().path).parent / "libfathom_torch.so"


def call(name, *arguments):
    """Calls a function that reports a status."""
    status = Status()
    if getattr(library(), name)(*arguments, byref(status)) != 0:
        raise_status(status)


def text_of(name, *arguments):
    """The text that a function writes to a buffer."""
    size = c_int64()
    call(name, *arguments, None, 0, byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    call(name, *arguments, buffer, size.value, byref(size))
    return buffer.value.decode()


def json_of(name, *arguments):
    return json.loads(text_of(name, *arguments))


class Owned:
    """An object of the library, destroyed with its last reference."""

    __slots__ = ("pointer", "_destroy")

    def __init__(self, create, destroy, *arguments):
        self._destroy = None
        pointer = c_void_p()
        call(create, *arguments, byref(pointer))
        self.pointer = pointer.value
        self._destroy = getattr(library(), destroy)

    def __del__(self):
        if self._destroy is not None:
            self._destroy(self.pointer)


@functools.lru_cache(maxsize=None)
def device(name="cpu", num_threads=0):
    """The device called "cpu", "cuda" or "cuda:N"; one object for each."""
    return Owned("fathom_device_create", "fathom_device_destroy", device_name(name).encode(), num_threads)


def device_name(name):
    """A device by its one name: "cuda" is "cuda:0", and a torch.device is a name too."""
    name = str(name)
    return "cuda:0" if name == "cuda" else name


class Memory:
    """Bytes on a device, aligned to 256, freed with the last reference."""

    __slots__ = ("address", "_owned")

    def __init__(self, device_called, size):
        self._owned = Owned("fathom_memory_create", "fathom_memory_destroy", device(device_called).pointer, size)
        self.address = library().fathom_memory_data(self._owned.pointer)
