"""Fathom in the place of other libraries: fathom.compat.flash_mla, and install() to put it there."""

import importlib
import sys


def install(replace=False):
    """Makes `import flash_mla` give fathom.compat.flash_mla, in this process; returns it.

    A FlashMLA that is already imported is left alone, with an error, unless `replace` is true: modules that have taken
    its functions by `from flash_mla import ...` keep them.
    """
    ours = importlib.import_module(".flash_mla", __name__)
    present = sys.modules.get("flash_mla")
    if present is not None and present is not ours and not replace:
        raise RuntimeError(
            "fathom.compat.install: flash_mla is already imported from "
            f"{getattr(present, '__file__', 'somewhere')}; install before it, or with replace=True"
        )
    for name in [name for name in sys.modules if name.startswith("flash_mla.")]:
        del sys.modules[name]
    sys.modules["flash_mla"] = sys.modules["flash_mla.flash_mla_interface"] = ours
    return ours


def __getattr__(name):
    if name == "flash_mla":
        return importlib.import_module(".flash_mla", __name__)
    raise AttributeError(f"module 'fathom.compat' has no attribute {name!r}")
