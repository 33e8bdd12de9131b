"""What this machine and this installation are: fathom.info() and fathom.doctor()."""

import importlib.util
import platform
import sys

from . import _library
from ._library import torch_library
from ._ops import ops


def _version_of(module):
    """A module's version; None if it is not installed. Looks without importing what is not imported yet."""
    found = sys.modules.get(module)
    if found is not None:
        return getattr(found, "__version__", "installed")
    if importlib.util.find_spec(module) is None:
        return None
    from importlib import metadata

    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return "installed"


def info():
    """Versions, the library's place, devices and ops, as a dict that json can write."""
    loaded = _library.library()
    devices = [_library.json_of("fathom_device_json", _library.device("cpu").pointer)]
    for index in range(loaded.fathom_cuda_count()):
        devices.append(_library.json_of("fathom_device_json", _library.device(f"cuda:{index}").pointer))
    return {
        "version": loaded.fathom_version().decode(),
        "abi_version": loaded.fathom_abi_version(),
        "library": loaded.path,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "modules": {name: _version_of(name) for name in ("numpy", "ml_dtypes", "torch", "transformers")},
        "devices": devices,
        "torch_library": str(torch_library()) if torch_library().exists() else None,
        "ops": list(ops()),
    }


def doctor(file=None):
    """Prints what works here and what is missing, each with its remedy; returns whether anything can run."""

    def say(mark, text):
        print(f"  {mark} {text}", file=file or sys.stdout)

    print("fathom doctor", file=file or sys.stdout)
    try:
        found = info()
    except (ImportError, OSError) as problem:
        say("✘", str(problem))
        return False
    say("✔", f"libfathom {found['version']} (C interface {found['abi_version']}) at {found['library']}")
    for device in found["devices"]:
        if device["kind"] == "cpu":
            say("✔", f"cpu: {device['num_threads']} threads")
        else:
            say(
                "✔",
                f"cuda:{device['index']}: compute capability {device['compute_capability'] / 10}, "
                f"{device['memory_bytes'] >> 30} GiB",
            )
    if len(found["devices"]) == 1:
        try:
            _library.device("cuda")
        except (NotImplementedError, RuntimeError, ValueError) as refusal:
            say("–", f"cuda: {refusal}")
    if found["torch_library"]:
        say("✔", f"libfathom_torch at {found['torch_library']}")
    else:
        say("–", "libfathom_torch is not here: torch.ops.fathom goes through ctypes; build with FATHOM_TORCH=ON")
    remedies = {
        "numpy": "results need memory of your own; pip install numpy",
        "ml_dtypes": "bf16 NumPy results must be given; pip install ml_dtypes",
        "torch": "no torch tensors, fathom.torch_ops and fathom.draft; pip install torch",
        "transformers": "no fathom.hf; pip install transformers",
    }
    for name, version in found["modules"].items():
        if version:
            say("✔", f"{name} {version}")
        else:
            say("–", f"{name} is not installed: {remedies[name]}")
    return True
