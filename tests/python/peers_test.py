"""bench/peers.py: its lines are what the report reads, and a peer that computes something else is noticed."""

import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
from fathom import report  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import peers  # noqa: E402


def test_the_report_has_bars_against_peers(tmp_path):
    lines, page = tmp_path / "lines.jsonl", tmp_path / "page.html"
    command = [sys.executable, str(ROOT / "bench" / "peers.py"), "--device", "cpu", "--small", "--repeat", "2"]
    subprocess.run([*command, "--json", str(lines)], check=True, capture_output=True)
    assert report.write([lines], page, "peers") == 6
    text = page.read_text(encoding="utf-8")
    assert text.count('class="bar own"') == 3 and text.count('class="bar peer"') == 3
    assert f"torch {torch.__version__}" in text and "Fathom cpu" in text
    assert "bench/peers.py --device cpu --small" in text


def test_a_peer_that_differs_is_an_error():
    for case in peers.cases_of("cpu", small=True):
        name, peer = next(iter(case.peers.items()))

        def skewed(given):
            result = peer(given).clone()
            return result.roll(1, 0) if case.op == "select_topk" else 1.02 * result

        case.peers = {name: skewed}
        with pytest.raises(SystemExit, match="differ"):
            list(peers.measure(case, "cpu", 1))
