#!/usr/bin/env python3
"""Writes the GPU tables of README.md from what scripts/gpu_tables.sh measured.

gpu_tables.py RESULTS README: RESULTS holds ops.jsonl and layers.jsonl, README the markers <!-- gpu-ops:begin --> and so on.
"""
import datetime
import json
import pathlib
import re
import sys


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def microseconds(seconds):
    value = seconds * 1e6
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def ops_table(ops):
    """Every op on the sm_80 path: its time, the time that its bytes or its arithmetic take at the roof measured beside it, the share."""
    rows = [f"Every op on the kernels that any GPU from sm_80 on runs, here on one {ops[0]['device'].split(' (')[0]}; us. The floor is the op's bytes or products at the "
            "read or bf16 product rate measured in turns with it; inputs are cold.", "",
            "| op | case | by | time | floor | share |", "|---|---|---|--:|--:|--:|"]
    for op in ops:
        if op["op"] == "layer":
            continue
        time, share = op["seconds"]["median"], op["share_of_roof"]
        rows.append(f"| {op['op']} | `{op['case']}` | `{op['implementation']}` | {microseconds(time)} | {microseconds(time * share)} | {100 * share:.0f} % |")
    return rows


def layer_tables(layers):
    """One layer of each model, stage by stage: the prefill, and the decode steps by context and batch."""
    rows = []
    for model in dict.fromkeys(line["model"] for line in layers):
        steps = [line for line in layers if line["model"] == model]
        prefill, decodes = steps[0], steps[1:]
        title = {"v4-flash": "V4-Flash", "v4-pro": "V4-Pro"}[model]
        heads = [f"prefill {prefill['tokens']}"] + [f"{step['context']:,} x {step['batch']}" for step in decodes]
        rows += [f"One {prefill['layer'].upper()} layer of {title}, us by stage; decode after so many tokens x so many sequences:", "",
                 "| stage | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
        for i, stage in enumerate(prefill["stages"]):
            cells = [microseconds(step["stages"][i]["seconds"]) for step in steps]
            rows.append(f"| {stage['stage']} | " + " | ".join(cells) + " |")
        rows.append("| sum | " + " | ".join(microseconds(step["total_seconds"]) for step in steps) + " |")
        rows.append("| the layer as one, in a graph | " + " | ".join(microseconds(step["whole_seconds"]) for step in steps) + " |")
        rows.append("")
    return rows[:-1]


def write(readme, name, rows):
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = readme.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"gpu_tables: {readme} has no place for {name}")
    body = "\n".join(rows)
    readme.write_text(re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{body}\n{end}", text, flags=re.DOTALL))


def main():
    results, readme = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    ops, layers = lines_of(results / "ops.jsonl"), lines_of(results / "layers.jsonl")
    day = datetime.date.fromtimestamp((results / "ops.jsonl").stat().st_mtime)
    note = f"`scripts/gpu_tables.sh`, {day}, {layers[0]['device']}."
    write(readme, "gpu-layers", [note, ""] + layer_tables(layers))
    write(readme, "gpu-ops", [note, ""] + ops_table(ops))


if __name__ == "__main__":
    main()
