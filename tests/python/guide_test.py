"""docs/guide/python.md: its blocks run, in order, as they stand."""

import os
import pathlib
import re
import sys

import pytest

pytest.importorskip("numpy")
pytest.importorskip("ml_dtypes")
ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_guide_runs_as_it_stands(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("flash_mla", "flash_mla.flash_mla_interface"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    page = (ROOT / "docs" / "guide" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) >= 8
    names = {"__name__": "guide"}
    try:
        for block in blocks:
            line = page[: page.index(block)].count("\n")
            exec(compile("\n" * line + block, os.fspath(ROOT / "docs/guide/python.md"), "exec"), names)
    finally:
        for name in ("flash_mla", "flash_mla.flash_mla_interface"):
            sys.modules.pop(name, None)
