"""docs/guide/python.md: its blocks run, in order, as they stand."""

import os
import pathlib
import re
import sys

import pytest

pytest.importorskip("numpy")
pytest.importorskip("ml_dtypes")
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("torch_too", [False, True], ids=["", "torch"])
def test_the_guide_runs_as_it_stands(monkeypatch, torch_too):
    """```python blocks, and with torch and transformers the ```py blocks, which find a `model` and `ids`."""
    monkeypatch.chdir(ROOT)
    names = {"__name__": "guide"}
    if torch_too:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
        import hf_test

        names.update(model=hf_test.tiny(), ids=hf_test.prompt(1, 20))
    for name in ("flash_mla", "flash_mla.flash_mla_interface"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    page = (ROOT / "docs" / "guide" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```py{'(?:thon)?' if torch_too else 'thon'}\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) >= (11 if torch_too else 8)
    try:
        for block in blocks:
            line = page[: page.index(block)].count("\n")
            exec(compile("\n" * line + block, os.fspath(ROOT / "docs/guide/python.md"), "exec"), names)
    finally:
        for name in ("flash_mla", "flash_mla.flash_mla_interface"):
            sys.modules.pop(name, None)
