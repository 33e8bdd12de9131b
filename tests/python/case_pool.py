"""Cases on worker processes that share a machine: memory is given out, processors are not shared, nothing gets lost.

A case may start when the memory that it costs is free; of those that may, the dearest goes first, so that cheap ones fill
the gaps and the end. A case that runs out of memory is tried again with twice as much, in the end with the machine to
itself. A worker that dies, or says nothing for too long, fails its case alone and is replaced. Every number ends in one
of three places of `Outcome`.
"""

import bisect
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import time


@dataclasses.dataclass
class Outcome:
    """The cases by number: each is in exactly one of the first three."""

    passed: dict = dataclasses.field(default_factory=dict)  # number -> what run_case said
    failed: dict = dataclasses.field(default_factory=dict)  # number -> why
    not_run: list = dataclasses.field(default_factory=list)  # the time was up, or no worker was left
    again: list = dataclasses.field(default_factory=list)  # those that ran out of memory, once for each time
    alone: list = dataclasses.field(default_factory=list)  # those that had the machine to themselves
    seconds: dict = dataclasses.field(default_factory=dict)


class OutOfMemory(Exception):
    """A case says that the memory it was given did not do."""


def _work(rank, workers, pipe, parent, prepare, run_case):
    """A worker: prepares itself, then runs cases as they come. It ends after an exception, which may have left anything."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[rank % len(processors) :: workers])
    prepare()
    pipe.send(None)
    verdict = ""
    while verdict != "raised":
        while not pipe.poll(1.0):
            if os.getppid() != parent:
                return
        if (task := pipe.recv()) is None:
            return
        number, cost = task
        began = time.monotonic()
        try:
            passed, text = run_case(number, cost)
            verdict = "passed" if passed else "failed"
        except OutOfMemory as problem:
            verdict, text = "memory", str(problem)
        except Exception as problem:
            verdict, text = "raised", f"{type(problem).__name__}: {problem}"
        pipe.send((verdict, text, time.monotonic() - began))


class _Worker:
    """The parent's side of a worker. `task` is (number, cost), "prepare", or None when it waits for one."""

    def __init__(self, rank, workers, prepare, run_case):
        context = multiprocessing.get_context("fork")  # imports take longer than cases
        self.rank, self.workers, self.task, self.since = rank, workers, "prepare", time.monotonic()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(rank, workers, theirs, os.getpid(), prepare, run_case), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, task):
        self.task, self.since = task, time.monotonic()
        try:
            self.pipe.send(task)
        except OSError:
            pass  # it died: the next look at its pipe says so

    def end(self, seconds):
        """Lets an idle worker go."""
        self.give(None)
        self.process.join(seconds)
        self.kill()

    def kill(self):
        self.process.kill()
        self.process.join()
        return self.process.exitcode


def run_all(costs, prepare, run_case, *, workers, memory, until, longest=120.0, report=lambda outcome: None):
    """The Outcome of all cases in `costs` (number -> memory), of which no more than `memory` is out at any time.

    prepare() is called once in each worker. run_case(number, cost) gives (passed, text) and raises OutOfMemory where `cost`
    does not do; a cost of None means all there is. Costs are integers. No case starts after `until` (time.monotonic), and
    each has `longest` seconds, as has prepare. `report` is called after each case.
    """
    outcome, free = Outcome(), memory
    pending = sorted((cost, number) for number, cost in costs.items() if cost <= memory)
    alone = [number for number, cost in costs.items() if cost > memory]
    pool = [_Worker(rank, workers, prepare, run_case) for rank in range(workers)]

    def give_out():
        """Cases to the workers that wait, as memory allows."""
        nonlocal free
        idle = [worker for worker in pool if worker.task is None]
        while idle and pending and pending[0][0] <= free:
            cost, number = pending.pop(bisect.bisect_right(pending, free, key=lambda waiting: waiting[0]) - 1)
            free -= cost
            idle.pop().give((number, cost))
        if alone and not pending and len(idle) == len(pool) > 0:
            for worker in idle[:-1]:  # so that nothing of theirs lies in memory
                pool.remove(worker)
                worker.end(longest)
            outcome.alone.append(alone[0])
            idle[-1].give((alone.pop(0), None))

    def take(worker, verdict, text, seconds):
        """What has become of a worker's case."""
        nonlocal free
        number, cost = worker.task
        worker.task = None
        free += cost or 0
        outcome.seconds[number] = seconds
        if verdict == "memory" and cost is not None:
            outcome.again.append(number)
            if (dearer := max(2 * cost, memory // 16, 1)) <= memory:
                bisect.insort(pending, (dearer, number))
            else:
                alone.append(number)
        else:
            (outcome.passed if verdict == "passed" else outcome.failed)[number] = text
        report(outcome)

    def replace(worker):
        pool.remove(worker)
        worker.kill()
        pool.append(_Worker(worker.rank, workers, prepare, run_case))

    while pool:
        if time.monotonic() < until:
            give_out()
        busy = [worker for worker in pool if worker.task is not None]
        if not busy:
            break
        heard = multiprocessing.connection.wait([worker.pipe for worker in busy], timeout=0.5)
        for worker in busy:
            seconds = time.monotonic() - worker.since
            try:
                if worker.pipe in heard:
                    answer = worker.pipe.recv()
                    if answer is None:
                        worker.task = None
                        continue
                    take(worker, *answer)
                    if answer[0] == "raised":
                        replace(worker)
                    continue
                if seconds < longest:
                    continue
                why = f"no answer in {longest:g} s"
            except (EOFError, OSError):
                why = "the worker died"
            why += f", exit code {worker.kill()}"
            if worker.task == "prepare":  # the next one would fare no better
                pool.remove(worker)
                continue
            take(worker, "failed", why, seconds)
            replace(worker)
    for worker in pool:
        worker.end(longest)
    outcome.not_run = sorted([number for _, number in pending] + alone)
    ended = sorted([*outcome.passed, *outcome.failed, *outcome.not_run])
    assert ended == sorted(costs), "a case was lost or counted twice"
    return outcome
