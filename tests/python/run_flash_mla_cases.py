"""FlashMLA's own test cases, references and tolerances, imported unmodified, against fathom.compat.flash_mla.

    run_flash_mla_cases.py TESTS decode|prefill|all [--device cuda|cpu] [--workers N] [--sample N] [--seconds S] [--done FILE]

TESTS is the folder `tests` of a FlashMLA checkout with the V4 cases (github.com/deepseek-ai/FlashMLA, April 2026 line).
A case's seed is its number in their list, as when their own script runs the list from its start. Cases that also
measure time are run for correctness only. --sample takes N of those that fit --most-rows. --done keeps the numbers of
passed cases in FILE, so that several runs share the list; it counts only with the library, package and cases that it
was written with. The last lines are "KIND: passed P of R run, N in the list", earlier runs of FILE counted in.
"""

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import pathlib
import random
import sys
import time
import types

import case_pool

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESERVE, CONTEXT = 1000, 800  # megabytes of each worker: what torch keeps, and what CUDA, cuBLAS and plans take
MOST_PLANS = 16
MODULES = {"decode": "test_flash_mla_sparse_decoding", "prefill": "test_flash_mla_sparse_prefill"}


def _stand_in(name, **attributes):
    """What FlashMLA's tests import for their tables and timings only, where it is not installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = module = types.ModuleType(name)
        vars(module).update(attributes)


def load(tests, kind, device):
    """Their module and list of cases, with fathom.compat.flash_mla as `flash_mla` and torch set up as their main does."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # no gaps between blocks of all sizes
    import torch

    try:
        import fathom.compat
    except ImportError:
        sys.path.insert(0, str(ROOT / "python"))
        import fathom.compat
    fathom.compat.install()
    _stand_in("triton", jit=lambda function: function)
    for name in ("rich", "rich.console", "rich.table"):
        _stand_in(name, Console=None, Table=None)
    sys.path.insert(0, str(tests))
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device(device)
    torch.set_float32_matmul_precision("high")
    torch.cuda.empty_cache = lambda: None  # before every case of theirs; Cases.clean does it when it is worth it
    if device == "cpu":  # their code says .cuda() and synchronize() where it means "where q lies"
        torch.Tensor.cuda = lambda self, *_: self
        torch.cuda.synchronize = lambda *_: None
    module = importlib.import_module(MODULES[kind])
    if kind == "decode":
        cases = [raw.to_test_param() for raw in module.gen_testcase()]
    else:  # their list stands under `if __name__ == "__main__"`: its assignments, up to the whole list
        tree = ast.parse(pathlib.Path(module.__file__).read_text())
        main = next(node for node in tree.body if isinstance(node, ast.If))
        names = ("correctness_cases", "correctness_cases_with_features", "corner_cases", "performance_case_templates")
        names += ("performance_cases", "testcases")
        wanted = [n for n in main.body if isinstance(n, ast.Assign) and n.targets[0].id in names]
        exec(compile(ast.Module(wanted, []), module.__file__, "exec"), vars(module))
        cases = module.testcases
    for number, case in enumerate(cases):
        case.seed, case.num_runs = number, 0
    return module, cases


def rows_of(case):
    """Rows that a case's reference gathers: what its time grows with."""
    decode = case.decode
    return (decode.b * case.s_q * (case.topk + (decode.extra_topk or 0))) if decode else case.s_q * case.topk


def megabytes_of(case):
    """About what a case takes at its most, beyond what a worker always has: making it, its reference, or comparing."""
    decode, dim = case.decode, case.d_qk
    tokens = case.s_q * (decode.b if decode else 1)
    queries = 2 * tokens * case.h_q * (dim + case.d_v) * (1 if decode else 2.4)
    reference = rows_of(case) * max(8 * dim, 6 * dim + 12 * case.h_q)
    compared = max(reference, 40 * tokens * case.h_q * case.d_v) if case.check_correctness else 0
    if not decode:
        kept = making = 6 * case.s_kv * dim
    else:  # lengths vary around their mean by half of it; a page more than there are, an eighth more of each row
        spread = 2.5 if decode.is_varlen else 1.0
        scopes = [(case.s_kv, decode.block_size)]
        if decode.extra_topk:
            scopes.append((decode.extra_s_k or 2 * decode.extra_topk, decode.extra_block_size or decode.block_size))
        pools = [(2 * decode.b * spread * tokens * dim, 1 + 1 / page) for tokens, page in scopes]
        kept = sum(1.6 * pool for pool, _ in pools)
        making = max((1 + 1.25 * page) * pool for pool, page in pools)
    return max(int((queries + kept + max(making, compared)) / 1e6) + 200 - RESERVE, 0)


def identity_of(tests):
    """A hash of what decides how a case ends: the library, the package, their cases."""
    import fathom

    package = pathlib.Path(fathom.__file__).parent
    told = hashlib.sha256(pathlib.Path(fathom._library.library().path).read_bytes())
    for folder in (package, tests):
        for path in sorted(folder.rglob("*.py")):
            told.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return told.hexdigest()


def done_before(path, identity):
    """Cases that passed in earlier runs of the same code: (kind, number)."""
    if path is None or not path.exists():
        return set()
    kept = json.loads(path.read_text())
    return {(kind, number) for kind, number in kept["passed"]} if kept["of"] == identity else set()


def keep_done(path, identity, passed):
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"of": identity, "passed": sorted(passed)}))
    os.replace(beside, path)


class Cases:
    """What a worker does: one case of the lists at a time, on the device."""

    def __init__(self, tests, kinds, device):
        self.device, self.theirs, self.cases = device, {}, {}
        for kind in kinds:
            module, cases = load(tests, kind, device)
            self.theirs[kind] = module.test_flash_mla if kind == "decode" else module.run_test
            self.cases.update({(kind, number): case for number, case in enumerate(cases)})

    def prepare(self):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))  # the pool has given this process its processors
        torch.zeros(1)

    def limit(self, cost):
        """Lets torch take `cost`, the reserve and a little for its gaps, so that no worker takes what another was given."""
        import torch

        if self.device != "cuda":
            return
        share = 1.0 if cost is None else min((1.3 * (cost + RESERVE) + 500) * 1e6 / torch.cuda.mem_get_info()[1], 1.0)
        torch.cuda.set_per_process_memory_fraction(share)
        torch.cuda.reset_peak_memory_stats()

    def clean(self):
        """Gives back what the case took, and now and then what Fathom keeps for calls like earlier ones."""
        import fathom
        import torch

        if self.device != "cuda":
            return
        if torch.cuda.memory_reserved() > RESERVE * 1e6:
            torch.cuda.memory.empty_cache()
        plans = fathom._ops.cached_plan
        if plans.cache_info().currsize >= MOST_PLANS:
            fathom.compat.flash_mla._calls.clear()
            plans.cache_clear()

    def run(self, key, cost):
        """(passed, what was printed or, if it passed, the memory it took in GB)."""
        import torch

        self.limit(cost)
        printed, lacking = io.StringIO(), ""
        try:
            with contextlib.redirect_stdout(printed):
                result = self.theirs[key[0]](self.cases[key])
            passed = bool(result.is_correct if key[0] == "decode" else result)
        except (torch.OutOfMemoryError, MemoryError) as problem:
            lacking = f"{type(problem).__name__}: {problem}"
        if lacking:  # after the exception, which holds on to the case's tensors
            torch.use_deterministic_algorithms(False)  # theirs sets and resets it
            gc.collect()
            self.clean()
            raise case_pool.OutOfMemory(lacking)
        took = torch.cuda.max_memory_reserved() if self.device == "cuda" else 0
        self.clean()
        return passed, f"{took / 1e9:.3f}" if passed else printed.getvalue()


def memory_of(device, workers):
    """Megabytes to give out beyond the workers' own."""
    if device == "cpu":
        return int(0.6 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6)
    import subprocess  # asking CUDA itself would keep the workers from being forked

    asked = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    free = float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0])
    return int(free * 1.048576) - workers * (RESERVE + CONTEXT)


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("tests", type=pathlib.Path)
    about.add_argument("kind", choices=[*MODULES, "all"])
    about.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    about.add_argument("--workers", type=int, default=1)
    about.add_argument("--sample", type=int, default=0)
    about.add_argument("--sample-seed", type=int, default=1)
    about.add_argument("--most-rows", type=int, default=0, help="leave out cases whose reference gathers more rows")
    about.add_argument("--seconds", type=float, default=1e9, help="no case starts later than this after the workers do")
    about.add_argument("--done", type=pathlib.Path)
    about.add_argument("--notes", type=pathlib.Path, help="seconds and memory of each case as JSON")
    given = about.parse_args()
    kinds = list(MODULES) if given.kind == "all" else [given.kind]
    work = Cases(given.tests, kinds, given.device)
    identity = identity_of(given.tests)
    before = {case for case in done_before(given.done, identity) if case in work.cases}
    asked = [key for key, case in work.cases.items() if not given.most_rows or rows_of(case) <= given.most_rows]
    if given.sample:
        asked = random.Random(given.sample_seed).sample(asked, given.sample)
    costs = {key: megabytes_of(work.cases[key]) for key in asked if key not in before}
    kept = [time.monotonic(), 0]

    def report(outcome):
        for key, why in list(outcome.failed.items())[kept[1] :]:
            print(f"failed: {key[0]} case {key[1]}, {work.cases[key]}\n{why}", flush=True)
        kept[1] = len(outcome.failed)
        if given.done and time.monotonic() > kept[0] + 5:
            keep_done(given.done, identity, before | set(outcome.passed))
            kept[0] = time.monotonic()

    began = time.monotonic()
    outcome = case_pool.run_all(
        costs,
        work.prepare,
        work.run,
        workers=given.workers,
        memory=memory_of(given.device, given.workers),
        until=began + given.seconds,
        report=report,
    )
    took = time.monotonic() - began
    passed = before | set(outcome.passed)
    if given.done:
        keep_done(given.done, identity, passed)
    if given.notes:
        notes = [
            dict(case=key, seconds=round(s, 3), took=outcome.passed.get(key), megabytes=costs[key])
            for key, s in outcome.seconds.items()
        ]
        given.notes.write_text(json.dumps(notes))
    seconds = sorted(outcome.seconds.values()) or [0.0]
    print(
        f"{len(outcome.seconds)} cases in {took:.0f} s with {given.workers} workers, seconds a case: median "
        f"{seconds[len(seconds) // 2]:.2f}, most {seconds[-1]:.2f}; out of memory {len(outcome.again)} times, alone "
        f"{len(outcome.alone)}; code {identity[:12]}"
    )
    for kind in kinds:

        def count(keys):
            return sum(key[0] == kind for key in keys)

        ran = count(passed) + count(outcome.failed)
        others = count(work.cases) - ran - count(outcome.not_run)
        print(
            f"{kind}: passed {count(passed)} of {ran} run, {count(work.cases)} in the list ({count(before)} in earlier runs, "
            f"{count(outcome.not_run)} not reached, {others} not asked for)"
        )
    return 1 if outcome.failed or not passed or outcome.not_run and not outcome.passed else 0


if __name__ == "__main__":
    sys.exit(main())
