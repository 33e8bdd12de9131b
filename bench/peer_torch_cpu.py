"""Fathom's CPU ops beside plain PyTorch doing the same arithmetic: same cores, same instruction set, in turns in one process.

  PYTHONPATH=python taskset -c 0,1 python bench/peer_torch_cpu.py --isa avx2
  PYTHONPATH=python python bench/peer_torch_cpu.py --isa amx --ops attend,index --turns 9 --json results.jsonl

PyTorch gets several ways to its result, each timed: from what is stored (FP8 weights and rows, FP4 keys), and from operands that were
widened to f32 or bf16 before the clock ran, which takes two to four times the memory and is what no server does; a way whose result has
other roundings is marked. Inputs rotate over copies that together pass twice the last-level cache. A line gives medians with their
10th and 90th percentiles, and how often ours fits into theirs; outputs are compared first.
"""

import argparse
import json
import os
import statistics
import sys
import time

ISAS = {  # ours, ATen's, oneDNN's, MKL's
    "avx2": ("cpu:avx2", "avx2", "AVX2", "AVX2"),
    "avx512": ("cpu:avx512", "avx512", "AVX512_CORE", "AVX512"),
    "avx512bf16": ("cpu:avx512bf16", "avx512", "AVX512_CORE_BF16", "AVX512"),
    "amx": ("", "avx512", "AVX512_CORE_AMX", "AVX512"),
}
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--isa", choices=ISAS, required=True)
parser.add_argument("--ops", default="linear,compress,attend,index,layer")
parser.add_argument("--turns", type=int, default=7)
parser.add_argument("--seconds", type=float, default=0.05, help="of a sample")
parser.add_argument("--json", help="append a JSON object a line")
OPTIONS = parser.parse_args()
FORCE, aten, onednn, mkl = ISAS[OPTIONS.isa]
os.environ.update(ATEN_CPU_CAPABILITY=aten, ONEDNN_MAX_CPU_ISA=onednn, MKL_ENABLE_INSTRUCTIONS=mkl)
THREADS = len(os.sched_getaffinity(0))
os.environ["OMP_NUM_THREADS"] = str(THREADS)

import torch  # noqa: E402  the variables above are read when it loads
import torch.nn.functional as F  # noqa: E402

import fathom  # noqa: E402

torch.set_num_threads(THREADS)
torch.set_grad_enabled(False)
bf16, f32, fp8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn


def cache_bytes():
    try:
        return max(os.sysconf("SC_LEVEL3_CACHE_SIZE"), 1 << 20)
    except (ValueError, OSError):
        return 32 << 20


def copies_of(*tensors):
    """The tensors and clones of them, together past twice the cache."""
    size = sum(t.numel() * t.element_size() for t in tensors)
    count = max(1, min(64, -(-2 * cache_bytes() // size), (4 << 30) // size))
    return [tensors] + [tuple(t.clone() for t in tensors) for _ in range(count - 1)]


def rotating(run, copies):
    turn = [0]

    def next_one():
        turn[0] = (turn[0] + 1) % len(copies)
        return run(*copies[turn[0]])

    return next_one


def plan(op, **fields):
    """Ours, with the instruction set forced on every op below that has it."""
    text = {name: value for name, value in fields.items()}
    if not FORCE:
        return fathom.plan(op, num_threads=THREADS, **text)
    if fathom.supported(op, force=FORCE, **text)[0]:
        return fathom.plan(op, force=f"{op}={FORCE}", num_threads=THREADS, **text)
    return fathom.plan(op, force=f"linear={FORCE}", num_threads=THREADS, **text)


def seconds_of(run, repeat):
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def spread(values):
    values = sorted(values)
    return statistics.median(values), values[round(0.1 * (len(values) - 1))], values[round(0.9 * (len(values) - 1))]


def difference(a, b):
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


def compare(name, ours, result, ways):
    """`ways`: name -> (run, its result as `result()` gives ours, or a number: how far they are apart)."""
    ours()
    apart = {}
    for way, (run, _) in ways.items():
        theirs = run()
        apart[way] = ways[way][1](theirs) if callable(ways[way][1]) else difference(result(), theirs)
    runs = {"": ours} | {way: run for way, (run, _) in ways.items()}
    repeats = {way: max(1, min(1000, int(OPTIONS.seconds / max(min(seconds_of(run, 1) for _ in range(2)), 1e-7)))) for way, run in runs.items()}
    samples = {way: [] for way in runs}
    for _ in range(max(OPTIONS.turns, 5)):
        for way, run in runs.items():
            samples[way].append(seconds_of(run, repeats[way]))
    spreads = {way: spread(values) for way, values in samples.items()}
    median, low, high = spreads[""]
    print(f"{name}\n  ours {median * 1e6:11.1f} us  [{low * 1e6:.1f} {high * 1e6:.1f}]")
    for way in ways:
        theirs, low, high = spreads[way]
        print(f"    {theirs / median:6.2f} x  {theirs * 1e6:11.1f} us  [{low * 1e6:.1f} {high * 1e6:.1f}]  {way}; apart {apart[way]:.1e}")
    sys.stdout.flush()
    if OPTIONS.json:
        with open(OPTIONS.json, "a") as file:
            line = {"shape": name, "isa": OPTIONS.isa, "threads": THREADS, "ours": spreads[""], "torch": torch.__version__}
            print(json.dumps(line | {"ways": {way: {"seconds": spreads[way], "apart": apart[way]} for way in ways}}), file=file)


# ---- linear ----------------------------------------------------------------------------------------------------------


def q8(x):
    """Rounded to E4M3 with a power of two for each 128 elements, and back: what the model sees of an activation."""
    blocks = x.float().unflatten(-1, (-1, 128))
    scale = torch.exp2(torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 448)))
    return ((blocks / scale).clamp(-448, 448).to(fp8).float() * scale).flatten(-2).to(x.dtype)


def fp8_weight(rows, columns):
    codes = (torch.randn(rows, columns) * 40).to(fp8)
    scale = torch.randint(116, 121, (-(-rows // 128), -(-columns // 128)), dtype=torch.uint8)
    return codes, scale


def widened(codes, scale, dtype):
    powers = torch.exp2(scale.float() - 127).to(dtype).repeat_interleave(128, 0).repeat_interleave(128, 1)
    return codes.to(dtype) * powers[: codes.shape[0], : codes.shape[1]]


def bench_linear():
    for tokens, columns, rows in ((1, 1024, 32768), (32, 1024, 32768), (1, 4096, 4096), (32, 4096, 4096), (512, 4096, 1024)):
        x = (torch.randn(tokens, columns)).to(bf16)
        codes, scale = fp8_weight(rows, columns)
        out = torch.empty(tokens, rows, dtype=bf16)
        made = plan("linear", num_tokens=tokens, in_dim=columns, out_dim=rows, weight_dtype="e4m3", activation_quant="e4m3_128")
        calls = [made.bind(x=x, weight=w, weight_scale=fathom.view(s, "ue8m0"), out=out) for w, s in copies_of(codes, scale)]
        ours = rotating(lambda call: call(), [(call,) for call in calls])
        ways = {
            "stored FP8, bf16 product": (rotating(lambda w, s: F.linear(q8(x), widened(w, s, bf16)), copies_of(codes, scale)), None),
            "widened to bf16 before": (rotating(lambda w: F.linear(q8(x), w), copies_of(widened(codes, scale, bf16))), None),
            "widened to f32 before": (
                rotating(lambda w: F.linear(q8(x).float(), w).to(bf16), copies_of(widened(codes, scale, f32))),
                None,
            ),
        }
        compare(f"linear {tokens} tokens, {columns} -> {rows}, E4M3 weights, {made.implementation}", ours, lambda out=out: out, ways)


# ---- compress --------------------------------------------------------------------------------------------------------


def rms_norm(x, weight, eps=1e-6):
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def rotated(x, rope):
    """The last 64 elements, in adjacent pairs, by rows of cos and sin."""
    pairs = x[..., -64:].unflatten(-1, (-1, 2))
    c, s = rope[..., :32], rope[..., 32:]
    even, odd = pairs[..., 0], pairs[..., 1]
    return torch.cat([x[..., :-64], torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2)], -1)


def e4m3_rows(x):
    """Codes, scale bytes and rotary part, as a cache row has them."""
    blocks = x[..., :448].unflatten(-1, (7, 64))
    exponent = torch.ceil(torch.log2(blocks.abs().amax(-1).clamp_min(1e-4) / 448))
    return (blocks / torch.exp2(exponent)[..., None]).to(fp8), (exponent + 127).to(torch.uint8), x[..., 448:].to(bf16)


def bench_compress():
    hidden, dim = 4096, 512
    for name, ratio, overlap, tokens, sequences in (
        ("4x prefill", 4, 1, 512, 1),
        ("128x prefill", 128, 0, 512, 1),
        ("4x decode, all close", 4, 1, 16, 16),
        ("128x decode, all close", 128, 0, 16, 16),
    ):
        width, rows = dim * (overlap + 1), ratio * (overlap + 1)
        positions = 4096 if sequences == 1 else rows
        each = tokens // sequences
        state_rows = rows + each
        x = torch.randn(tokens, hidden).to(bf16)
        wkv, wgate = (torch.randn(width, hidden) / hidden**0.5).to(bf16), (torch.randn(width, hidden) / hidden**0.5).to(bf16)
        ape, norm = torch.randn(ratio, width), torch.rand(dim) + 0.5
        angles = torch.outer(torch.arange(8192.0), 10000 ** -(torch.arange(32.0) / 32))
        rope = torch.cat([angles.cos(), angles.sin()], -1)
        start = 0 if sequences == 1 else positions - 1  # decode: the token at the end of its group
        position = torch.arange(start, start + each).repeat(sequences).to(torch.int32)
        sequence = torch.arange(sequences).repeat_interleave(each).to(torch.int32)
        pages = -(-positions // 8)
        state = torch.randn(sequences, pages * 8, 2 * width)
        table = torch.arange(sequences * pages, dtype=torch.int32).reshape(sequences, pages)
        state_bytes = state.reshape(sequences * pages, -1).view(torch.uint8)
        slots = (sequence * pages * 8 + position).long()
        cache = torch.zeros(tokens // 64 + 1, fathom.quantize_kv(torch.zeros(1, 64, dim)).reshape(-1).numel(), dtype=torch.uint8)
        entries = torch.arange(tokens).long()
        made = plan("compress", num_tokens=tokens, num_seqs=sequences, hidden_size=hidden, ratio=ratio, overlap=overlap, state_page_size=8)
        calls = [
            made.bind(x=x, wkv=a, wgate=b, ape=ape, norm=norm, rope_table=rope, positions=position, seq_ids=sequence, slot_mapping=entries,
                      state_slot_mapping=slots, state_block_table=table, state_cache=state_bytes, cache=cache)
            for a, b in copies_of(wkv, wgate)
        ]  # fmt: skip
        ours = rotating(lambda call: call(), [(call,) for call in calls])

        def entry_of(kv, score):
            """From projections to what a cache keeps; the state rows are stored, older ones read."""
            score = score + ape[position.long() % ratio]
            new = torch.cat([kv, score], -1)
            if sequences == 1:
                state[0, :tokens] = new
                groups = new.unflatten(0, (-1, ratio))
                if overlap:
                    before = F.pad(groups[:-1], (0, 0, 0, 0, 1, 0))
                    before[0, :, width:] = -torch.inf
                    k = torch.cat([before[..., :dim], groups[..., dim:width]], 1)
                    s = torch.cat([before[..., width : width + dim], groups[..., width + dim :]], 1)
                else:
                    k, s = groups[..., :width], groups[..., width:]
                at = torch.arange(0, tokens, ratio)
            else:
                state[:, positions - 1] = new
                if overlap:
                    k = torch.cat([state[:, :ratio, :dim], state[:, ratio:rows, dim:width]], 1)
                    s = torch.cat([state[:, :ratio, width : width + dim], state[:, ratio:rows, width + dim :]], 1)
                else:
                    k, s = state[:, :rows, :width], state[:, :rows, width:]
                at = torch.full((sequences,), positions - ratio)
            pooled = (torch.softmax(s, 1) * k).sum(1).to(bf16).float()
            return e4m3_rows(rotated(rms_norm(pooled, norm).to(bf16).float(), rope[at]).to(bf16).float())

        def closing_entries():
            values = fathom.dequantize_kv(cache.as_strided((cache.shape[0], 64, 1, 584), (cache.shape[1], 584, 584, 1)))
            return values.reshape(-1, dim)[:tokens][(position.long() + 1) % ratio == 0]

        def apart(theirs):
            codes, exponent, last = theirs
            values = codes.float() * torch.exp2(exponent.float() - 127)[..., None]
            return difference(closing_entries(), torch.cat([values.flatten(-2), last.float()], -1))

        ways = {
            "stored bf16, f32 product": (
                rotating(lambda a, b: entry_of(F.linear(x.float(), a.float()), F.linear(x.float(), b.float())), copies_of(wkv, wgate)),
                apart,
            ),
            "widened to f32 before": (
                rotating(lambda a, b: entry_of(F.linear(x.float(), a), F.linear(x.float(), b)), copies_of(wkv.float(), wgate.float())),
                apart,
            ),
            "bf16 product, rounded to bf16 (other numerics)": (
                rotating(lambda a, b: entry_of(F.linear(x, a).float(), F.linear(x, b).float()), copies_of(wkv, wgate)),
                apart,
            ),
        }
        compare(f"compress {name}, {tokens} tokens, {made.implementation}", ours, None, ways)


# ---- attend ----------------------------------------------------------------------------------------------------------


def random_rows(count):
    codes = (torch.randn(count, 7, 64) * 60).to(fp8)
    scale = torch.randint(119, 122, (count, 7), dtype=torch.uint8)
    return codes, scale, torch.randn(count, 64).to(bf16)


def row_values(codes, scale, last, dtype):
    return torch.cat([(codes.to(dtype) * torch.exp2(scale.to(dtype) - 127)[..., None]).flatten(-2), last.to(dtype)], -1)


def attention(q, rows, sink, dtype):
    """q [tokens, heads, 512], rows [tokens, count, 512]."""
    logits = torch.bmm(q, rows.transpose(1, 2)).float() * 512**-0.5
    logits = torch.cat([logits, sink.expand(q.shape[0], -1)[..., None]], -1)
    weights = torch.softmax(logits, -1)[..., :-1]
    return torch.bmm(weights.to(dtype), rows).to(bf16)


def bench_attend():
    for name, tokens, heads, entries in (
        ("Flash CSA decode, batch 8", 8, 64, 512),
        ("Flash CSA decode, batch 32", 32, 64, 512),
        ("Pro CSA decode, batch 8", 8, 128, 1024),
        ("Flash HCA at 128k, batch 8", 8, 64, 1024),
        ("Flash CSA prefill, 512 tokens", 512, 64, 512),
    ):
        pool = 64 * (512 if tokens > 64 else 64 * tokens)
        count = 128 + entries
        codes, scale, last = random_rows(pool)
        values = row_values(codes, scale, last, f32)
        bytes_of_rows = fathom.quantize_kv(values.reshape(-1, 64, 512))
        cache = bytes_of_rows.reshape(bytes_of_rows.shape[0], -1)
        q, sink = torch.randn(tokens, heads, 512).to(bf16), torch.randn(heads)
        slots = torch.stack([torch.randperm(pool)[:count] for _ in range(tokens)]).to(torch.int32)
        out = torch.empty(tokens, heads, 512, dtype=bf16)
        made = plan("attend", num_tokens=tokens, num_heads=heads, window_rows="list", window_width=128, entries_rows="list", entries_width=entries)
        window, selected = slots[:, :128].contiguous(), slots[:, 128:].contiguous()
        ours = made.bind(q=q, window_cache=cache, window_indices=window, entries_cache=cache, entries_indices=selected, attn_sink=sink, out=out)
        flat, wide, narrow = slots.long(), values, values.to(bf16)

        def stored(dtype):
            rows = row_values(codes[flat], scale[flat], last[flat], dtype)
            return attention(q.to(dtype), rows, sink, dtype)

        ways = {
            "stored FP8 rows, f32": (lambda: stored(f32), None),
            "stored FP8 rows, bf16": (lambda: stored(bf16), None),
            "rows widened to f32 before": (lambda: attention(q.float(), wide[flat], sink, f32), None),
            "rows widened to bf16 before": (lambda: attention(q, narrow[flat], sink, bf16), None),
        }
        if tokens > 64:
            ways = {way: run for way, run in ways.items() if "stored" not in way}  # gigabytes of gathered rows take minutes
        compare(f"attend {name}, {made.implementation}", ours, lambda out=out: out, ways)


# ---- index -----------------------------------------------------------------------------------------------------------


def bench_index():
    values_of_codes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    for name, context, tokens in (("32k", 32768, 1), ("128k", 131072, 1), ("32k, batch 8", 32768, 8)):
        entries = context // 4
        nibbles = torch.randint(0, 16, (tokens * entries, 128), dtype=torch.uint8)
        nibbles[:, ::32] |= 7  # the largest magnitude in every block: the quantiser keeps the scale
        scale = torch.randint(125, 128, (tokens * entries, 4), dtype=torch.uint8)
        packed = nibbles[:, ::2] | nibbles[:, 1::2] << 4

        def keys_of(packed, scale, dtype):
            codes = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
            return (values_of_codes.to(dtype)[codes.int()].unflatten(-1, (4, 32)) * torch.exp2(scale.to(dtype) - 127)[..., None]).flatten(-2)

        keys = keys_of(packed, scale, f32)
        cache = fathom.quantize_kv(keys.reshape(-1, 64, 128), layout="index_e2m1_ue8m0")
        cache = cache.reshape(cache.shape[0], -1)
        q_nibbles = torch.randint(0, 16, (tokens, 64, 128), dtype=torch.uint8)
        q_scale = torch.full((tokens, 64, 4), 127, dtype=torch.uint8)
        q = values_of_codes[q_nibbles.int()]
        q_packed = q_nibbles[..., ::2] | q_nibbles[..., 1::2] << 4
        weights = torch.rand(tokens, 64)
        made = plan("index", num_tokens=tokens, num_seqs=tokens)
        picks = torch.empty(tokens, 512, dtype=torch.int32)
        table = torch.arange(tokens * entries // 64, dtype=torch.int32).reshape(tokens, -1)
        q_view = fathom.view(q_packed, "e2m1x2")  # an array of bytes; the library counts elements
        q_view.tensor.shape[2], q_view.tensor.strides[:3] = 128, (64 * 128, 128, 1)
        ours = made.bind(q=q_view, q_scale=fathom.view(q_scale, "ue8m0"), weights=weights, index_cache=cache,
                         block_table=table, positions=torch.full((tokens,), context - 1, dtype=torch.int32),
                         seq_ids=torch.arange(tokens, dtype=torch.int32), topk_entries=picks)  # fmt: skip

        def scores_of(keys, dtype):
            products = torch.bmm(keys.reshape(tokens, entries, 128), q.to(dtype).transpose(1, 2)).relu_()
            return torch.bmm(products.float(), weights[..., None])[..., 0]

        def pick(keys, dtype):
            return scores_of(keys, dtype).topk(512, -1).indices

        exact = scores_of(keys, f32)

        def apart(theirs):
            """The least score picked, theirs beside ours: ties may fall either way."""
            mine = exact.gather(1, picks.long()).amin(1)
            return ((exact.gather(1, theirs).amin(1) - mine).abs() / mine.abs()).max().item()

        wide, narrow = keys, keys.to(bf16)
        ways = {
            "stored FP4 keys, f32": (lambda: pick(keys_of(packed, scale, f32), f32), apart),
            "keys widened to f32 before": (lambda: pick(wide, f32), apart),
            "keys widened to bf16 before (products rounded)": (lambda: pick(narrow, bf16), apart),
        }
        compare(f"index {name}, {made.implementation}", ours, None, ways)


print(f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), oneDNN up to {onednn}, {THREADS} threads; ours: {FORCE or 'the best'}")
torch.manual_seed(0)
for op in OPTIONS.ops.split(","):
    if "bench_" + op in globals():
        globals()["bench_" + op]()
