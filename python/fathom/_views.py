"""Views: the caller's arrays as the library sees them. NumPy, torch, DLPack, buffers; no copies, no imports."""

import ctypes
import functools
import math
import sys

from ._library import DTYPES, MAX_RANK, Tensor

CODES = {name: code for code, name in enumerate(DTYPES)}
ITEM_BYTES = {"f32": 4, "bf16": 2, "e4m3": 1, "e2m1x2": 1, "ue8m0": 1, "i32": 4, "i64": 8, "u8": 1}
_OTHER_BYTES = {"int8": 1, "bool": 1, "float8_e5m2": 1, "int16": 2, "uint16": 2, "float16": 2}  # for reinterpretation
# What NumPy, ml_dtypes, torch, buffers and DLPack call them. Types that Fathom has no name for keep their own.
_NAMES = {
    "float32": "f32",
    "bfloat16": "bf16",
    "float8_e4m3fn": "e4m3",
    "float8_e8m0fnu": "ue8m0",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
}
_FORMATS = {"f": "f32", "i": "i32", "q": "i64", "l": "i64", "B": "u8"}
_DLPACK = {
    (2, 32): "f32",
    (4, 16): "bf16",
    (0, 32): "i32",
    (0, 64): "i64",
    (1, 8): "u8",
    (10, 8): "e4m3",
    (14, 8): "ue8m0",
}


@functools.lru_cache(maxsize=None)
def dtype_name(dtype):
    """Fathom's name of an element type: of "bf16", numpy.dtype, torch.bfloat16, ..."""
    if isinstance(dtype, str):
        name = dtype
    elif isinstance(dtype, type):  # numpy.float32, ml_dtypes.bfloat16
        name = dtype.__name__
    else:
        name = getattr(dtype, "name", None) or str(dtype)
    name = name.rpartition(".")[2]
    return _NAMES.get(name, name)


_PADDING = tuple((0,) * (MAX_RANK - rank) for rank in range(MAX_RANK + 1))


class View:
    """A strided view of someone's memory, which it keeps alive. Strides count elements."""

    __slots__ = ("tensor", "packed", "owner", "read_only")

    def __init__(self, address, dtype, shape, strides=None, owner=None, device=("cpu", 0), read_only=False):
        if dtype not in CODES:
            raise ValueError(f"fathom.view: dtype is {dtype}, expected one of {', '.join(DTYPES)}")
        if not 1 <= len(shape) <= MAX_RANK:
            raise ValueError(f"fathom.view: shape is {tuple(shape)}, expected 1 to {MAX_RANK} extents")
        if strides is None:
            strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        padding = _PADDING[len(shape)]
        self.tensor = Tensor(
            address,
            CODES[dtype],
            0 if device[0] == "cpu" else 1,
            device[1],
            len(shape),
            (*shape, *padding),
            (*strides, *padding),
        )
        self.packed = bytes(self.tensor)  # copied into argument arrays: four times faster than the structure
        self.owner, self.read_only = owner, read_only

    @property
    def dtype(self):
        return DTYPES[self.tensor.dtype]

    @property
    def shape(self):
        return tuple(self.tensor.shape[: self.tensor.rank])

    @property
    def strides(self):
        return tuple(self.tensor.strides[: self.tensor.rank])

    def numpy(self):
        """The same memory as a NumPy array; bf16 and FP8 by ml_dtypes, packed FP4 as bytes."""
        import numpy

        if self.tensor.device:
            raise ValueError("fathom.View.numpy: the view lies on a CUDA device")
        item = ITEM_BYTES[self.dtype]
        kind = {"f32": "<f4", "bf16": "<u2", "i32": "<i4", "i64": "<i8"}.get(self.dtype, "|u1")
        bits = numpy.asarray(
            _ArrayInterface(
                self,
                {
                    "version": 3,
                    "typestr": kind,
                    "shape": self.shape,
                    "strides": tuple(item * stride for stride in self.strides),
                    "data": (self.tensor.data or 0, self.read_only),
                },
            )
        )
        if self.dtype not in ("bf16", "e4m3", "ue8m0"):
            return bits
        import ml_dtypes

        return bits.view(
            {"bf16": ml_dtypes.bfloat16, "e4m3": ml_dtypes.float8_e4m3fn, "ue8m0": ml_dtypes.float8_e8m0fnu}[self.dtype]
        )

    def __repr__(self):
        return f"fathom.View({self.dtype}, {list(self.shape)})"


class _ArrayInterface:
    """What NumPy makes an array of; the array keeps it, and it keeps the view."""

    def __init__(self, kept, interface):
        self.kept, self.__array_interface__ = kept, interface


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


class _HeldBuffer:
    """An object's buffer, held until the last view of it is gone."""

    def __init__(self, array):
        self.held = _PyBuffer()
        ctypes.pythonapi.PyObject_GetBuffer(
            ctypes.py_object(array), ctypes.byref(self.held), 0x1C
        )  # PyBUF_STRIDES | FORMAT

    def __del__(self):
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(self.held))


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


def _from_torch(array):
    device = array.device
    kind = getattr(device, "type", str(device))
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"fathom.view: a tensor on {device}, expected cpu or cuda")
    return (
        array.data_ptr(),
        dtype_name(array.dtype),
        tuple(array.shape),
        tuple(array.stride()),
        array,
        (kind, getattr(device, "index", 0) or 0),
        False,
    )


def _from_cuda(array):
    """__cuda_array_interface__ of CuPy, Numba and others; which of several GPUs it lies on, they say elsewhere."""
    about = array.__cuda_array_interface__
    kind, item = about["typestr"][1:2], int(about["typestr"][2:])
    if about["typestr"][0] == ">":
        raise ValueError("fathom.view: a big-endian array")
    name = {("f", 4): "f32", ("i", 4): "i32", ("i", 8): "i64", ("u", 1): "u8"}.get((kind, item))
    name = name or {("u", 2): "uint16", ("i", 2): "int16", ("f", 2): "float16", ("i", 1): "int8"}.get(
        (kind, item), kind
    )
    address, read_only = about["data"]
    strides = about.get("strides")
    index = getattr(getattr(array, "device", None), "id", 0)
    return (
        address,
        name,
        tuple(about["shape"]),
        strides and _in_elements(strides, item),
        array,
        ("cuda", index),
        read_only,
    )


def _in_elements(byte_strides, item):
    if any(stride % item for stride in byte_strides):
        raise ValueError(f"fathom.view: strides of {byte_strides} bytes are no multiples of an element's {item}")
    return tuple(stride // item for stride in byte_strides)


def _from_numpy(array):
    about = array.__array_interface__
    dtype = getattr(array, "dtype", None)
    if getattr(dtype, "byteorder", "=") == ">":
        raise ValueError("fathom.view: a big-endian array")
    name = (
        dtype_name(dtype)
        if dtype is not None
        else {"<f4": "f32", "<i4": "i32", "<i8": "i64", "|u1": "u8"}.get(about["typestr"], about["typestr"])
    )
    item = getattr(dtype, "itemsize", None) or int(about["typestr"][2:])
    address, read_only = about["data"]
    strides = about.get("strides")
    return address, name, tuple(about["shape"]), strides and _in_elements(strides, item), array, ("cpu", 0), read_only


def _from_dlpack(array):
    capsule = array.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    # The capsule keeps its name, so that its own destructor frees the tensor when the view lets it go.
    tensor = ctypes.cast(pointer(capsule, b"dltensor"), ctypes.POINTER(_DLTensor)).contents
    if tensor.device_type not in (1, 2, 3, 13):
        raise ValueError(f"fathom.view: a tensor on DLPack device {tensor.device_type}, expected CPU (1) or CUDA (2)")
    device = (
        "cpu" if tensor.device_type in (1, 3) else "cuda",
        tensor.device_id if tensor.device_type in (2, 13) else 0,
    )
    name = _DLPACK.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    return (
        (tensor.data or 0) + tensor.byte_offset,
        name or f"DLPack ({tensor.code}, {tensor.bits})",
        shape,
        strides,
        capsule,
        device,
        False,
    )


def _from_buffer(array):
    owner = _HeldBuffer(array)
    held = owner.held
    form = (held.format or b"B").decode().lstrip("@=<")
    shape = tuple(held.shape[: held.ndim])
    strides = (
        _in_elements(held.strides[: held.ndim], held.itemsize) if held.strides else None
    )  # ctypes arrays give none
    return (
        held.buf or 0,
        _FORMATS.get(form, f"buffer format {form!r}"),
        shape,
        strides,
        owner,
        ("cpu", 0),
        bool(held.readonly),
    )


def view(array, dtype=None, shape=None):
    """A View of a NumPy array, torch tensor, CUDA array, DLPack object or buffer, without copying.

    dtype  reads the bits as another type of the same size ("bf16" over uint16, "e4m3" over uint8), or, together with
           shape, packed bytes as anything.
    """
    if isinstance(array, View):
        if dtype is None and shape is None:
            return array
        parts = (
            array.tensor.data or 0,
            array.dtype,
            array.shape,
            array.strides,
            array.owner,
            ("cuda" if array.tensor.device else "cpu", array.tensor.device_index),
            array.read_only,
        )
    elif hasattr(array, "data_ptr"):
        parts = _from_torch(array)
    elif hasattr(array, "__array_interface__"):
        parts = _from_numpy(array)
    elif hasattr(array, "__cuda_array_interface__"):
        parts = _from_cuda(array)
    elif hasattr(array, "__dlpack__"):
        parts = _from_dlpack(array)
    else:
        try:
            parts = _from_buffer(array)
        except (BufferError, TypeError):
            raise TypeError(f"fathom.view: {type(array).__name__} is no array, tensor or buffer") from None
    address, name, own_shape, strides, owner, device, read_only = parts
    if dtype is not None:
        dtype = dtype_name(dtype)
        own_bytes = (
            ITEM_BYTES.get(name) or _OTHER_BYTES.get(name) or getattr(getattr(array, "dtype", None), "itemsize", 0)
        )
        if dtype in ITEM_BYTES and own_bytes != ITEM_BYTES[dtype] and shape is None:
            raise ValueError(f"fathom.view: {name} elements have {own_bytes} bytes, {dtype} has {ITEM_BYTES[dtype]}")
        if shape is not None and dtype in ITEM_BYTES:
            if math.prod(own_shape) * own_bytes != math.prod(shape) * ITEM_BYTES[dtype]:
                raise ValueError(
                    f"fathom.view: {math.prod(own_shape) * own_bytes} bytes, expected "
                    f"{math.prod(shape) * ITEM_BYTES[dtype]} for {dtype} {list(shape)}"
                )
        name = dtype
    if shape is not None:
        packed = tuple(math.prod(own_shape[i + 1 :]) for i in range(len(own_shape)))
        if strides is not None and strides != packed and math.prod(own_shape) > 0:
            raise ValueError("fathom.view: shape may only be given for a packed array")
        if dtype is None and math.prod(own_shape) != math.prod(shape):
            raise ValueError(f"fathom.view: shape is {list(shape)}, the array has {math.prod(own_shape)} elements")
        own_shape, strides = tuple(shape), None
    return View(address, name, own_shape, strides, owner, device, read_only)


_TORCH_NAMES = {
    "f32": "float32",
    "bf16": "bfloat16",
    "e4m3": "float8_e4m3fn",
    "ue8m0": "float8_e8m0fnu",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "e2m1x2": "uint8",
}


def torch_dtype(name):
    """What torch, which is imported, calls an element type."""
    return getattr(sys.modules["torch"], _TORCH_NAMES[name])


def empty(shape, dtype, like=()):
    """An uninitialised array where `like` lie: a torch tensor if any of them is one, else a NumPy array."""
    torch = sys.modules.get("torch")
    model = next((array for array in like if torch is not None and isinstance(array, torch.Tensor)), None)
    if model is not None:
        return torch.empty(tuple(shape), dtype=torch_dtype(dtype), device=model.device)
    if any(view(array).tensor.device for array in like):
        raise RuntimeError("fathom: results on CUDA are made as torch tensors only; give every output")
    try:
        import numpy
    except ImportError:
        raise RuntimeError(
            "fathom: NumPy is not installed, so results need memory of your own: give every output"
        ) from None
    plain = {"f32": "float32", "i32": "int32", "i64": "int64", "u8": "uint8", "e2m1x2": "uint8"}.get(dtype)
    if plain is not None:
        return numpy.empty(shape, plain)
    try:
        import ml_dtypes
    except ImportError:
        raise RuntimeError(
            f"fathom: NumPy has no {dtype} without ml_dtypes: give the outputs as fathom.view(array, "
            f'"{dtype}"), or ask for f32'
        ) from None
    return numpy.empty(
        shape, {"bf16": ml_dtypes.bfloat16, "e4m3": ml_dtypes.float8_e4m3fn, "ue8m0": ml_dtypes.float8_e8m0fnu}[dtype]
    )
