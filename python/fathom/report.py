"""Bench results as one HTML page that needs nothing else: roofline, bars against peers, latency against context, a table.

    python -m fathom report results.jsonl [more.jsonl ...] -o report.html

Files are what `fathom bench --json` appends: an object a line. A peer's line has the same keys as far as it knows them (op,
case, device and seconds at least), and says who it is: "peer": "FlashMLA", "version", "command".
"""

import html
import json
import math
import pathlib

CONTEXT_FIELDS = ("context", "num_scores", "num_entries", "entries_width")  # the first that a case has is its context
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31", "#5c6b73")
SIZE = (760, 400)
MARGIN = (70, 20, 20, 50)  # left, right, top, bottom


class Line:
    """One measurement."""

    def __init__(self, row, place):
        def need(name, kind):
            if not isinstance(row.get(name), kind) or isinstance(row.get(name), bool):
                raise ValueError(
                    f"{place}: {name} is {row.get(name)!r}, expected {'a text' if kind is str else 'a number'}"
                )
            return row[name]

        self.op, self.case, self.device = (need(name, str) for name in ("op", "case", "device"))
        seconds = row.get("seconds")
        if not isinstance(seconds, dict) or not _positive(seconds.get("median")):
            raise ValueError(f"{place}: seconds has no median above zero")
        self.seconds = seconds["median"]
        self.low, self.high = (seconds[k] if _positive(seconds.get(k)) else self.seconds for k in ("p10", "p90"))
        self.peer = row.get("peer")
        if self.peer is not None:
            self.who = need("peer", str)
            self.version, self.command = need("version", str), need("command", str)
        else:
            self.who = f"Fathom {need('implementation', str)}"
            self.version = need("version", str)
            given = "" if self.device == "cpu" else f" --device {self.device}"
            self.command = row.get("command") or f'fathom bench {self.op} "{self.case}"{given}'
        self.bytes = sum(row.get(name) or 0 for name in ("read_bytes", "written_bytes"))
        self.operations = row.get("operations") or 0
        self.roof_bytes, self.roof_operations = (
            (row.get(name) or {}).get("median") for name in ("roof_bytes_per_second", "roof_operations_per_second")
        )
        self.share, self.bound, self.runs = row.get("share_of_roof"), row.get("bound_by"), row.get("runs")
        self.fields = dict(word.partition("=")[::2] for word in self.case.split())

    @property
    def context(self):
        """(field, number), or None."""
        for name in CONTEXT_FIELDS:
            if self.fields.get(name, "").isdigit() and int(self.fields[name]) > 0:
                return name, int(self.fields[name])
        return None


def _positive(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def read(paths):
    """The measurements of JSON-lines files, in order. A line that is none is an error that names it."""
    lines = []
    for path in paths:
        for number, text in enumerate(pathlib.Path(path).read_text(encoding="utf-8").splitlines(), 1):
            if text.strip():
                place = f"{path}:{number}"
                try:
                    row = json.loads(text)
                except json.JSONDecodeError as slip:
                    raise ValueError(f"{place}: {slip}") from None
                if not isinstance(row, dict):
                    raise ValueError(f"{place}: expected a JSON object")
                lines.append(Line(row, place))
    if not lines:
        raise ValueError(f"{', '.join(map(str, paths))}: there is no measurement")
    return lines


# ---- Numbers and shapes ---------------------------------------------------------------------------------------------


def _with_unit(value, unit):
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _time(seconds):
    for factor, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= factor:
            return f"{seconds / factor:.4g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _ticks(low, high):
    """Powers of ten that span low .. high."""
    return [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


class Plot:
    """A log-log plot as SVG text."""

    def __init__(self, xs, ys, x_label, y_label, x_text, y_text):
        self.x_ticks, self.y_ticks = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys))
        for ticks in (self.x_ticks, self.y_ticks):
            if len(ticks) == 1:
                ticks.append(ticks[0] * 10)
        left, right, top, bottom = MARGIN
        width, height = SIZE
        self.parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(y_label)}">']
        for ticks, place, text, vertical in (
            (self.x_ticks, self.x, x_text, True),
            (self.y_ticks, self.y, y_text, False),
        ):
            for tick in ticks:
                at = place(tick)
                if vertical:
                    line = f'x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{height - bottom}"'
                    label = f'x="{at:.1f}" y="{height - bottom + 16}" text-anchor="middle"'
                else:
                    line = f'y1="{at:.1f}" y2="{at:.1f}" x1="{left}" x2="{width - right}"'
                    label = f'x="{left - 6}" y="{at + 4:.1f}" text-anchor="end"'
                self.parts.append(f'<line class="grid" {line}/><text {label}>{html.escape(text(tick))}</text>')
        middle = (left + width - right) / 2
        self.parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{html.escape(x_label)}</text>')
        self.parts.append(f'<text x="{left}" y="{top - 6}">{html.escape(y_label)}</text>')

    @staticmethod
    def _along(value, ticks, start, end):
        low, high = math.log10(ticks[0]), math.log10(ticks[-1])
        return start + (math.log10(value) - low) / (high - low) * (end - start)

    def x(self, value):
        return self._along(value, self.x_ticks, MARGIN[0], SIZE[0] - MARGIN[1])

    def y(self, value):
        return self._along(value, self.y_ticks, SIZE[1] - MARGIN[3], MARGIN[2])

    def points(self, points, colour, titles):
        for (x, y), title in zip(points, titles):
            self.parts.append(
                f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="5" fill="{colour}">'
                f"<title>{html.escape(title)}</title></circle>"
            )

    def line(self, points, colour, dashed=False):
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        style = ' stroke-dasharray="6 4"' if dashed else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{style}/>')

    def text(self):
        return "".join(self.parts) + "</svg>"


def _legend(names):
    swatches = (
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{html.escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(swatches)}</p>'


# ---- The parts of the page ------------------------------------------------------------------------------------------


def _groups(lines, key):
    found = {}
    for line in lines:
        found.setdefault(key(line), []).append(line)
    return found


def roofline(lines):
    """One plot for each device: operations a second against operations a byte, under the roof measured in the same runs."""
    parts = []
    for device, own in _groups(lines, lambda line: line.device).items():
        own = [line for line in own if line.bytes > 0 and line.operations > 0]
        roofs = [line for line in own if _positive(line.roof_bytes) and _positive(line.roof_operations)]
        if not roofs:
            continue
        memory = sorted(line.roof_bytes for line in roofs)[len(roofs) // 2]
        arithmetic = sorted(line.roof_operations for line in roofs)[len(roofs) // 2]
        intensity = [line.operations / line.bytes for line in own]
        speed = [line.operations / line.seconds for line in own]
        ridge = arithmetic / memory
        low, high = min([*intensity, ridge]) / 2, max([*intensity, ridge]) * 2
        plot = Plot(
            [low, high],
            [*speed, arithmetic, low * memory],
            "operations a byte",
            "operations a second",
            lambda v: f"{v:g}",
            lambda v: _with_unit(v, ""),
        )
        start, end = plot.x_ticks[0], plot.x_ticks[-1]
        start = max(start, plot.y_ticks[0] / memory)
        plot.line([(start, start * memory), (ridge, arithmetic), (max(end, ridge), arithmetic)], "currentColor")
        names = list(dict.fromkeys(f"{line.op} · {line.who}" for line in own))
        for i, name in enumerate(names):
            here = [line for line in own if f"{line.op} · {line.who}" == name]
            plot.points(
                [(line.operations / line.bytes, line.operations / line.seconds) for line in here],
                COLOURS[i % len(COLOURS)],
                [f"{line.op} {line.case}: {_time(line.seconds)}" for line in here],
            )
        parts.append(
            f"<h3>{html.escape(device)}</h3><p>Roof, the median of what was measured between runs: "
            f"{_with_unit(memory, 'B/s')}, {_with_unit(arithmetic, 'FLOP/s')}.</p>{_legend(names)}{plot.text()}"
        )
    return "".join(parts) or "<p>No line has bytes, operations and roofs.</p>"


def bars(lines):
    """Times of the same case on the same device, ours and peers'."""
    parts = []
    for (device, op, case), own in _groups(lines, lambda line: (line.device, line.op, line.case)).items():
        if not any(line.peer for line in own) or all(line.peer for line in own):
            continue
        longest = max(line.high for line in own)
        parts.append(
            f"<h3>{html.escape(op)} on {html.escape(device)}</h3><p><code>{html.escape(case)}</code></p><table>"
        )
        for line in sorted(own, key=lambda line: line.seconds):
            kind = "peer" if line.peer else "own"
            parts.append(
                f'<tr><td>{html.escape(line.who)} {html.escape(line.version)}</td><td class="wide">'
                f'<div class="bar {kind}" style="width:{100 * line.seconds / longest:.2f}%"></div></td>'
                f"<td>{_time(line.seconds)}</td><td><code>{html.escape(line.command)}</code></td></tr>"
            )
        parts.append("</table>")
    return "".join(parts) or "<p>No case was measured by a peer on the same device.</p>"


def latency(lines):
    """One plot for each op and device: time against context, a line for cases that are otherwise alike."""
    parts = []
    with_context = [line for line in lines if line.context]
    for (device, op), own in _groups(with_context, lambda line: (line.device, line.op)).items():
        series = _groups(
            own,
            lambda line: (
                line.who,
                line.context[0],
                tuple((k, v) for k, v in line.fields.items() if k != line.context[0]),
            ),
        )
        series = {key: found for key, found in series.items() if len({line.context[1] for line in found}) > 1}
        if not series:
            continue
        every = [line for found in series.values() for line in found]
        names = [f"{who} · {' '.join(f'{k}={v}' for k, v in rest)}" for who, _, rest in series]
        words = ", ".join(dict.fromkeys(field for _, field, _ in series))
        plot = Plot(
            [line.context[1] for line in every],
            [line.seconds for line in every],
            words,
            "time",
            lambda v: _with_unit(v, "").strip(),
            _time,
        )
        for i, found in enumerate(series.values()):
            found = sorted(found, key=lambda line: line.context[1])
            points = [(line.context[1], line.seconds) for line in found]
            plot.line(points, COLOURS[i % len(COLOURS)], dashed=found[0].peer is not None)
            plot.points(points, COLOURS[i % len(COLOURS)], [f"{line.case}: {_time(line.seconds)}" for line in found])
        parts.append(f"<h3>{html.escape(op)} on {html.escape(device)}</h3>{_legend(names)}{plot.text()}")
    return "".join(parts) or "<p>No two lines differ in their context alone.</p>"


def table(lines):
    rows = []
    for line in lines:
        share = f"{100 * line.share:.1f} % ({line.bound})" if _positive(line.share) else ""
        cells = (
            line.op,
            line.case,
            line.device,
            f"{line.who} {line.version}",
            _time(line.seconds),
            f"{_time(line.low)} to {_time(line.high)}",
            _with_unit(line.bytes / line.seconds, "B/s") if line.bytes else "",
            _with_unit(line.operations / line.seconds, "FLOP/s") if line.operations else "",
            share,
            line.command,
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    heads = (
        "op",
        "case",
        "device",
        "implementation",
        "median",
        "p10 to p90",
        "bytes",
        "operations",
        "share of roof",
        "command",
    )
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table>"


_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1,h2,h3{line-height:1.2}svg{width:100%;height:auto;max-width:760px}svg text{font-size:11px;fill:currentColor}
.grid{stroke:currentColor;opacity:.15}table{border-collapse:collapse;font-size:13px}.scroll{overflow-x:auto}
td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid rgba(128,128,128,.3);white-space:nowrap}
.wide{width:18rem}.bar{height:.9rem;border-radius:2px}.own{background:#0072b2}.peer{background:#8a8f94}
.legend span{margin-right:1rem;white-space:nowrap}.legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.3rem}
"""


def page(lines, title="Fathom bench"):
    """The whole page as text."""
    devices = ", ".join(dict.fromkeys(line.device for line in lines))
    sections = (
        ("Roofline", roofline(lines)),
        ("Against peers", f'<div class="scroll">{bars(lines)}</div>'),
        ("Latency against context", latency(lines)),
        ("Everything", f'<div class="scroll">{table(lines)}</div>'),
    )
    body = "".join(f"<h2>{name}</h2>{text}" for name, text in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1><p>{len(lines)} measurements on {html.escape(devices)}. Times are medians; every row "
        f"names the command that measured it.</p>{body}</body></html>\n"
    )


def write(paths, output, title="Fathom bench"):
    """Reads result files and writes the page; returns how many measurements it shows."""
    lines = read(paths)
    pathlib.Path(output).write_text(page(lines, title), encoding="utf-8")
    return len(lines)
