"""FlashMLA's own test cases, references and tolerances, imported unmodified, against fathom.compat.flash_mla.

    run_flash_mla_cases.py TESTS decode|prefill [--device cuda|cpu] [--workers N] [--sample N] [--seconds S] [--done FILE]

TESTS is the folder `tests` of a FlashMLA checkout with the V4 cases (github.com/deepseek-ai/FlashMLA, April 2026 line).
A case's seed is its number in their list, as when their own script runs the list from its start. Cases that also
measure time are run for correctness only. --sample takes N of those that fit --most-rows; --done keeps the numbers of
passed cases in FILE, so that several runs share the list. The last line is "LIST: passed P of R run, N in the list".
"""

import argparse
import ast
import contextlib
import importlib
import io
import json
import multiprocessing
import pathlib
import random
import sys
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
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
    if device == "cuda":  # they empty it before every case, so that each pays for its memory anew
        give_back = torch.cuda.empty_cache
        torch.cuda.empty_cache = lambda: give_back() if torch.cuda.memory_reserved() > 4 << 30 else None
    else:  # their code says .cuda() and synchronize() where it means "where q lies"
        torch.Tensor.cuda = lambda self, *_: self
        torch.cuda.synchronize = torch.cuda.empty_cache = lambda *_: None
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
    """Rows that a case's reference gathers, of 576 numbers at most in f32: what its memory and time grow with."""
    decode = case.decode
    return (decode.b * case.s_q * (case.topk + (decode.extra_topk or 0))) if decode else case.s_q * case.topk


def gigabytes_of(case):
    """About what a case takes at its most: caches of lengths that vary, gathered rows in f32, and copies of both."""
    decode = case.decode
    pool = 2 * (decode.b * (case.s_kv + (decode.extra_s_k or 0))) if decode else case.s_kv
    return (3 * 4 * rows_of(case) + 3 * 2 * pool) * case.d_qk / 1e9


def run_case(module, kind, case):
    if kind == "decode":
        return module.test_flash_mla(case).is_correct
    return bool(module.run_test(case))


def work(module, cases, kind, device, numbers, until, results):
    """One worker: its cases in turn until the time is up."""
    import torch

    if device == "cuda":
        torch.set_num_threads(1)
    for number in numbers:
        if time.time() > until:
            break
        printed, began = io.StringIO(), time.time()
        try:
            with contextlib.redirect_stdout(printed):
                passed = run_case(module, kind, cases[number])
        except Exception as problem:  # an exception is a failed case, with its text
            passed = False
            print(f"{type(problem).__name__}: {problem}", file=printed)
        results.put((number, passed, time.time() - began, "" if passed else printed.getvalue()))
    results.put(None)


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("tests", type=pathlib.Path)
    about.add_argument("kind", choices=MODULES)
    about.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    about.add_argument("--workers", type=int, default=1)
    about.add_argument("--sample", type=int, default=0)
    about.add_argument("--sample-seed", type=int, default=1)
    about.add_argument("--most-rows", type=int, default=0, help="leave out cases whose reference gathers more rows")
    about.add_argument("--most-gb", type=float, default=1e9, help="leave out cases that take more memory")
    about.add_argument("--seconds", type=float, default=1e9)
    about.add_argument("--done", type=pathlib.Path)
    given = about.parse_args()
    until = time.time() + given.seconds
    module, cases = load(given.tests, given.kind, given.device)
    done = set(json.loads(given.done.read_text())) if given.done and given.done.exists() else set()
    numbers = [
        number
        for number, case in enumerate(cases)
        if number not in done and gigabytes_of(case) <= given.most_gb
        if not given.most_rows or rows_of(case) <= given.most_rows
    ]
    random.Random(given.sample_seed).shuffle(numbers)  # each worker gets cases of every size
    if given.sample:
        numbers = numbers[: given.sample]
    context = multiprocessing.get_context("fork")  # CUDA has not been used yet, and imports take longer than cases
    results, failed, passed, spent = context.Queue(), [], [], {}
    workers = [
        context.Process(
            target=work,
            args=(module, cases, given.kind, given.device, numbers[rank :: given.workers], until, results),
            daemon=True,
        )
        for rank in range(given.workers)
    ]
    for worker in workers:
        worker.start()
    working = len(workers)
    while working:
        try:
            result = results.get(timeout=5)
        except Exception:  # nothing came: a worker may have died
            working = sum(worker.is_alive() for worker in workers)
            continue
        if result is None:
            working -= 1
            continue
        number, good, seconds, text = result
        spent[number] = seconds
        (passed if good else failed).append(number)
        if not good:
            print(f"failed: case {number}, {cases[number]}\n{text}", flush=True)
    if given.done:
        given.done.write_text(json.dumps(sorted(done | set(passed))))
    ran = len(passed) + len(failed)
    seconds = sorted(spent.values()) or [0.0]
    print(
        f"{given.workers} workers, seconds a case: median {seconds[len(seconds) // 2]:.2f}, most {seconds[-1]:.2f}, together "
        f"{sum(seconds):.0f} in {time.time() - until + given.seconds:.0f}; {len(numbers) - ran} not reached"
    )
    print(f"{given.kind}: passed {len(passed)} of {ran} run, {len(cases)} in the list, {len(done)} passed before")
    return 1 if failed or any(worker.exitcode not in (0, None) for worker in workers) else 0


if __name__ == "__main__":
    sys.exit(main())
