"""A NumPy stand-in for the part of torch.Tensor that fathom.compat.flash_mla uses, where torch is not installed."""

import ml_dtypes
import numpy as np


class _Named:
    """A dtype by its torch-like name."""

    def __init__(self, numpy_dtype):
        self.numpy = np.dtype(numpy_dtype)

    def __str__(self):
        return "stand_in." + self.numpy.name

    def __hash__(self):
        return hash(self.numpy)

    def __eq__(self, other):
        return self.numpy == getattr(other, "numpy", None)


float32 = _Named(np.float32)


class _Device:
    type, index = "cpu", None


class Tensor:
    device = _Device()

    def __init__(self, array):
        self.array = array

    shape = property(lambda self: self.array.shape)

    @property
    def dtype(self):
        return _Named(self.array.dtype)

    def data_ptr(self):
        return self.array.__array_interface__["data"][0]

    def stride(self):
        return tuple(stride // self.array.itemsize for stride in self.array.strides)

    def reshape(self, *shape):
        return Tensor(self.array.reshape(shape))

    def transpose(self, a, b):
        return Tensor(self.array.swapaxes(a, b))

    def new_empty(self, shape, dtype=None):
        poison = np.full(np.prod(shape, dtype=int) * 4, 0xFF, np.uint8)  # NaN: what is not written shows
        numpy_dtype = self.array.dtype if dtype is None else dtype.numpy
        return Tensor(poison.view(numpy_dtype)[: np.prod(shape, dtype=int)].reshape(shape))

    def repeat_interleave(self, count):
        return Tensor(np.repeat(self.array, count))

    def nan_to_num_(self, nan, posinf, neginf):
        self.array[...] = np.nan_to_num(self.array, nan=nan, posinf=posinf, neginf=neginf)
        return self


def tensor(array, dtype=None):
    return Tensor(np.asarray(array, ml_dtypes.bfloat16 if dtype == "bf16" else dtype))
