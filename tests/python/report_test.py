"""python -m fathom report: pages of what `fathom bench --json` writes and of peers' lines; needs nothing but Python."""

import html.parser
import json
import os
import pathlib
import subprocess
import sys

import pytest
from fathom import report


def line(**changes):
    spread = {"median": 2e-5, "p10": 1.9e-5, "p90": 2.5e-5}
    row = {
        "op": "attend",
        "case": "num_tokens=1 num_heads=64 context=8192",
        "implementation": "cuda:sm90",
        "device": "cuda:0",
        "version": "0.1.0",
        "seconds": spread,
        "runs": 20,
        "copies": 8,
        "read_bytes": 4e5,
        "written_bytes": 6e4,
        "operations": 8e7,
        "roof_bytes_per_second": {**spread, "median": 3e12},
        "roof_operations_per_second": {**spread, "median": 7e14},
        "share_of_roof": 0.25,
        "bound_by": "memory",
    }
    return {**row, **changes}


def peer(**changes):
    row = {name: line()[name] for name in ("op", "case", "device", "seconds")}
    return {**row, "peer": "FlashMLA", "version": "9241ae3", "command": "python bench.py <b=1> & more", **changes}


def file_of(folder, *rows, name="results.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Checker(html.parser.HTMLParser):
    """That tags close in order and nothing is fetched; what stands in texts, and how many tags of each kind."""

    VOID = ("meta", "line", "polyline")

    def __init__(self, text):
        super().__init__()
        self.open, self.counts, self.texts = [], {}, []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert tag != "script"
        for name, value in attributes:
            assert name not in ("src", "href") and "url(" not in (value or ""), (tag, name)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_has_every_part(tmp_path):
    contexts = [
        line(case=f"num_tokens=1 num_heads=64 context={n}", seconds={"median": n * 1e-9}) for n in (1024, 65536)
    ]
    rows = [line(), *contexts, line(op="linear", case="num_tokens=1 in_dim=512 out_dim=512", device="cpu"), peer()]
    text = report.page(report.read([file_of(tmp_path, *rows)]), "A <title>")
    found = Checker(text)
    words = " ".join(found.texts)
    assert found.counts["svg"] == 3  # a roofline for each device, one latency plot
    assert found.counts["polyline"] == 3 and found.counts["circle"] == 4 + 3
    assert "A <title>" in words and "FlashMLA 9241ae3" in words and "python bench.py <b=1> & more" in words
    assert 'fathom bench attend "num_tokens=1 num_heads=64 context=8192" --device cuda:0' in words
    assert "20 µs" in words and "3 TB/s, 700 TFLOP/s" in words and "25.0 % (memory)" in words
    assert text.count('class="bar') == 2 and 'class="bar own" style="width:80.00%"' in text


def test_little_is_enough(tmp_path):
    rows = [peer(), line(read_bytes=0, written_bytes=0, operations=0, roof_bytes_per_second=None, case="")]
    words = " ".join(Checker(report.page(report.read([file_of(tmp_path, *rows)]))).texts)
    assert "No line has bytes" in words and "No case was measured" in words and "No two lines" in words


@pytest.mark.parametrize(
    "row, sentence",
    [
        ([], "expected a JSON object"),
        ({}, "op is None, expected a text"),
        (line(seconds={}), "no median"),
        (line(seconds={"median": 0}), "no median"),
        (line(seconds={"median": True}), "no median"),
        (line(implementation=3), "implementation is 3"),
        (peer(command=None), "command is None"),
        (peer(peer=7), "peer is 7"),
    ],
)
def test_lines_that_are_none(tmp_path, row, sentence):
    path = file_of(tmp_path, line(), row)
    with pytest.raises(ValueError, match=f"results.jsonl:2: .*{sentence}"):
        report.read([path])


def test_files_that_are_none(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"op": \n')
    with pytest.raises(ValueError, match="broken.jsonl:1"):
        report.read([broken])
    broken.write_text("\n \n")
    with pytest.raises(ValueError, match="there is no measurement"):
        report.read([broken])


def test_the_command(tmp_path):
    """In a process of its own that has neither NumPy, torch nor libfathom."""
    code = "import sys; sys.modules.update(numpy=None, torch=None, ml_dtypes=None); from fathom.__main__ import main; "
    folder = pathlib.Path(report.__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(folder), "FATHOM_LIBRARY": str(tmp_path / "none.so")}
    output = tmp_path / "page.html"

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", f"{code}sys.exit(main({[str(a) for a in arguments]}))"],
            env=environment,
            capture_output=True,
            text=True,
        )

    done = run("report", file_of(tmp_path, line()), file_of(tmp_path, peer(), name="peers.jsonl"), "-o", output)
    assert done.returncode == 0 and "2 measurements" in done.stdout, done.stderr
    Checker(output.read_text(encoding="utf-8"))
    assert run("report", tmp_path / "nowhere.jsonl").returncode == 1
    assert run("sing").returncode == 2
