"""Fathom and its peers on the same inputs, in turns in one process: JSON lines for `python -m fathom report`.

    bench/peers.py [--device cuda|cpu] [--op NAME ...] [--small] [--repeat N] --json FILE

attend against FlashMLA's own package (where `flash_mla` is installed, on a GPU that it supports) and against plain
PyTorch on rows decoded beforehand; select_topk against torch.topk; linear against torch's matmul of bf16 weights, which
are twice the bytes. On a GPU every call finds its inputs outside L2: a CUDA graph goes round copies of them. Medians
of --repeat turns; a peer whose results differ from ours is an error.
"""

import argparse
import json
import math
import pathlib
import shlex
import statistics
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
try:
    import fathom
except ImportError:
    sys.path.insert(0, str(ROOT / "python"))
    import fathom

COLD_BYTES = 200 << 20


def flash_mla():
    """FlashMLA's own module, or None."""
    try:
        import flash_mla as module
    except ImportError:
        return None
    return None if module.__name__.startswith("fathom") else module


class Case:
    """One problem: `inputs()` makes a set of tensors, `ours` and each peer turn it into results to be compared."""

    def __init__(self, op, text, inputs, results, peers, bound, num_bytes, operations):
        self.op, self.text, self.inputs, self.results, self.peers = op, text, inputs, results, peers
        self.bound, self.num_bytes, self.operations = bound, num_bytes, operations


def linear_case(device, tokens, into, out):
    """E4M3 weights of 128 x 128 tiles here, the same values in bf16 there."""
    text = f"num_tokens={tokens} in_dim={into} out_dim={out} weight_dtype=e4m3"

    def inputs():
        codes = torch.randn(out, into, device=device).to(torch.float8_e4m3fn)
        scales = torch.randint(118, 124, (out // 128, into // 128), dtype=torch.uint8, device=device)
        wide = torch.exp2(scales.float() - 127).repeat_interleave(128, 0).repeat_interleave(128, 1)
        return dict(
            x=torch.randn(tokens, into, device=device).to(torch.bfloat16),
            weight=codes.view(torch.uint8),
            weight_scale=scales,
            wide=(codes.float() * wide).to(torch.bfloat16),
            out=torch.empty(tokens, out, dtype=torch.bfloat16, device=device),
        )

    def ours(given):
        return dict(
            x=given["x"],
            weight=fathom.view(given["weight"], "e4m3"),
            weight_scale=fathom.view(given["weight_scale"], "ue8m0"),
            out=given["out"],
        )

    peers = {"torch.matmul, bf16 weights": lambda given: torch.matmul(given["x"], given["wide"].T)}
    num_bytes = out * into + 2 * tokens * (into + out)
    return Case("linear", text, inputs, ours, peers, 1e-2, num_bytes, 2.0 * tokens * into * out)


def topk_case(device, tokens, scores, topk):
    text = f"num_tokens={tokens} num_scores={scores} topk={topk}"

    def inputs():
        return dict(
            scores=torch.randn(tokens, scores, device=device),
            topk_entries=torch.empty(tokens, topk, dtype=torch.int32, device=device),
        )

    def ours(given):
        return given

    def picked(given):
        return torch.topk(given["scores"], topk, sorted=False).indices

    return Case("select_topk", text, inputs, ours, {"torch.topk": picked}, None, 4 * tokens * (scores + topk), 0.0)


def attend_case(device, tokens, heads, width):
    """A window of 128 rows and `width` entries, 584-byte rows in pages of 64, a sink."""
    text = (
        f"num_tokens={tokens} num_heads={heads} window_rows=list window_width=128 "
        f"entries_rows=list entries_width={width}"
    )
    num_pages = max(4, min(1024, tokens * width // 16))
    scale = 512**-0.5

    def inputs():
        pages = fathom.quantize_kv(torch.randn(num_pages, 64, 512, device=device))
        slots = [torch.randint(0, num_pages * 64, (tokens, n), dtype=torch.int32, device=device) for n in (128, width)]
        return dict(
            q=torch.randn(tokens, heads, 512, device=device).to(torch.bfloat16),
            pages=pages,
            raw=pages.as_strided((num_pages, 64 * 584), (pages.stride(0), 1)),
            window=slots[0],
            entries=slots[1],
            rows=fathom.dequantize_kv(pages).reshape(-1, 512).to(torch.bfloat16),
            sink=torch.randn(heads, device=device),
            out=torch.empty(tokens, heads, 512, dtype=torch.bfloat16, device=device),
        )

    def ours(given):
        return dict(
            q=given["q"],
            window_cache=given["raw"],
            window_indices=given["window"],
            entries_cache=given["raw"],
            entries_indices=given["entries"],
            attn_sink=given["sink"],
            out=given["out"],
        )

    def plain(given):
        rows = given["rows"][torch.cat([given["window"], given["entries"]], 1).long()]
        logits = torch.bmm(given["q"], rows.transpose(1, 2)).float() * scale
        sink = given["sink"].view(1, -1, 1).expand(tokens, -1, 1)
        weights = torch.softmax(torch.cat([logits, sink], 2), 2)[..., :-1]
        return torch.bmm(weights.to(torch.bfloat16), rows)

    peers = {"PyTorch, rows decoded before": plain}
    module = flash_mla()
    if module is not None and heads in (64, 128) and device != "cpu":
        planned, _ = module.get_mla_metadata()

        def peer(given):
            return module.flash_mla_with_kvcache(
                given["q"][:, None], given["pages"].view(torch.float8_e4m3fn), None, None, 512, planned, None, scale,
                False, True, given["window"][:, None], given["sink"], given["pages"].view(torch.float8_e4m3fn),
                given["entries"][:, None],
            )[0][:, 0]  # fmt: skip

        peers = {"FlashMLA": peer, **peers}
    read = tokens * (128 + width)
    num_bytes = min(read, num_pages * 64) * 584 + 4 * read + 2 * 2 * tokens * heads * 512
    return Case("attend", text, inputs, ours, peers, 1e-2, num_bytes, 4.0 * read * heads * 512)


def cases_of(device, small):
    if small:
        yield linear_case(device, 2, 256, 384)
        yield topk_case(device, 3, 4096, 64)
        yield attend_case(device, 3, 64, 64)
        return
    for into, out in ((4096, 1024), (1024, 32768), (16384, 7168)):
        for tokens in (1, 32, 4096):
            yield linear_case(device, tokens, into, out)
    for tokens, scores, topk in ((1, 8192, 512), (32, 8192, 512), (1, 262144, 512), (16, 32768, 1024)):
        yield topk_case(device, tokens, scores, topk)
    for heads, width in ((64, 512), (128, 1024), (64, 8192)):
        for tokens in (1, 32, 128):
            yield attend_case(device, tokens, heads, width)


def version_of(peer):
    if peer != "FlashMLA":
        return f"torch {torch.__version__}"
    module = flash_mla()
    return getattr(module, "__version__", "unknown")


def rounds_on_gpu(call, sets):
    """() -> seconds of one call: a graph of calls that goes round the sets."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for given in sets[:2]:
            call(given)  # kernels are loaded, plans made
    torch.cuda.synchronize()
    graph, calls = torch.cuda.CUDAGraph(), math.ceil(20 / len(sets)) * len(sets)
    with torch.cuda.graph(graph, stream=side):
        for i in range(calls):
            call(sets[i % len(sets)])
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run():
        before.record()
        graph.replay()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) * 1e-3 / calls

    return run


def rounds_on_cpu(call, sets):
    def run():
        began = time.perf_counter()
        for given in sets:
            call(given)
        return (time.perf_counter() - began) / len(sets)

    return run


def same(case, ours, theirs, given):
    """Whether results agree: to `bound` of relative L2, or as scores picked."""
    if case.bound is None:
        rows = [given["scores"].gather(1, picks.long()).sort(1).values for picks in (ours, theirs)]
        return torch.equal(*rows)
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item() < case.bound


def measure(case, device, repeat):
    """The lines of a case: ours, and one for each peer."""
    gpu = device != "cpu"
    copies = max(1, min(512, COLD_BYTES // case.num_bytes + 1)) if gpu else 1
    sets = [case.inputs() for _ in range(copies)]
    fields = dict(word.split("=") for word in case.text.split())
    plan = fathom.plan(case.op, device=device, **fields)
    views = {id(given): {k: fathom.view(v) for k, v in case.results(given).items()} for given in sets}

    def ours(given):
        plan(**views[id(given)])

    out = {"linear": "out", "select_topk": "topk_entries", "attend": "out"}[case.op]
    ours(sets[0])
    for name, peer in case.peers.items():
        if not same(case, sets[0][out], peer(sets[0]), sets[0]):
            raise SystemExit(f"{case.op} {case.text}: {name} and Fathom differ")
    rounds = rounds_on_gpu if gpu else rounds_on_cpu
    with torch.inference_mode():
        runs = {None: rounds(ours, sets), **{name: rounds(peer, sets) for name, peer in case.peers.items()}}
        seconds = {name: [] for name in runs}
        for turn in range(repeat + 1):
            for name, run in runs.items():
                spent = run()
                if turn:  # the first turn warms up
                    seconds[name].append(spent)
    for name, spent in seconds.items():
        spent.sort()
        line = dict(
            op=case.op,
            case=case.text,
            device="cpu" if not gpu else "cuda:0",
            seconds=dict(median=statistics.median(spent), p10=spent[len(spent) // 10], p90=spent[len(spent) * 9 // 10]),
            runs=len(spent),
            copies=copies,
            read_bytes=case.num_bytes,
            operations=case.operations,
            command=" ".join(["python", "bench/peers.py", *map(shlex.quote, sys.argv[1:])]),
            machine=torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads",
        )
        if name is None:
            line.update(implementation=plan.implementation, version=fathom.__version__)
        else:
            line.update(peer=name, version=version_of(name))
        yield line


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    about.add_argument("--op", action="append", help="only this op; may be given again")
    about.add_argument("--small", action="store_true", help="one small case of each op")
    about.add_argument("--repeat", type=int, default=11)
    about.add_argument("--json", type=pathlib.Path, required=True)
    given = about.parse_args()
    torch.manual_seed(0)
    device = "cuda:0" if given.device == "cuda" else "cpu"
    with given.json.open("a", encoding="utf-8") as file:
        for case in cases_of(device, given.small):
            if given.op and case.op not in given.op:
                continue
            for line in measure(case, device, given.repeat):
                who = line.get("peer") or f"Fathom {line['implementation']}"
                print(f"{line['op']:12} {line['seconds']['median'] * 1e6:10.1f} us  {who}: {line['case']}", flush=True)
                file.write(json.dumps(line) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
