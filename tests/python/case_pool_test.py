"""The pool of workers behind run_flash_mla_cases.py: what it gives out, and that everything is accounted for."""

import os
import time

import case_pool
import pytest

FOREVER = float("inf")


def run(costs, run_case, *, workers=2, memory=10, until=FOREVER, prepare=lambda: None, **rest):
    return case_pool.run_all(costs, prepare, run_case, workers=workers, memory=memory, until=until, **rest)


def test_every_case_runs_once_and_says_how_it_ended(tmp_path):
    def case(number, cost):
        (tmp_path / str(number)).touch(exist_ok=False)
        return number % 3 != 0, f"{number} took {cost}"

    outcome = run({number: number % 7 for number in range(40)}, case, workers=3)
    assert sorted(outcome.passed) == [n for n in range(40) if n % 3]
    assert sorted(outcome.failed) == [n for n in range(40) if n % 3 == 0]
    assert outcome.passed[8] == "8 took 1" and outcome.failed[9] == "9 took 2"
    assert sorted(outcome.seconds) == list(range(40)) and not outcome.not_run and not outcome.alone


def test_no_more_memory_is_out_than_there_is(tmp_path):
    def case(number, cost):
        mine = tmp_path / f"{number}-{cost}"
        mine.touch()
        out = sum(int(other.name.partition("-")[2]) for other in tmp_path.iterdir())
        time.sleep(0.02)
        mine.unlink()
        return out <= 10, f"{out} was out"

    outcome = run({number: [1, 4, 6, 9][number % 4] for number in range(24)}, case, workers=4)
    assert len(outcome.passed) == 24, outcome.failed
    seen = max(int(text.split()[0]) for text in outcome.passed.values())
    assert seen > 9, "nothing ran beside anything"


def test_the_dearest_case_that_fits_goes_first():
    began = {}

    def case(number, cost):
        return True, str(time.monotonic())

    outcome = run({number: number for number in range(9)}, case, workers=1)
    began = sorted(outcome.passed, key=lambda number: float(outcome.passed[number]))
    assert began == list(reversed(range(9)))


def test_a_case_out_of_memory_gets_more_and_at_last_everything(tmp_path):
    needs = {3: 4, 5: 10, 6: 11}

    def case(number, cost):
        mine = tmp_path / str(number)
        mine.touch()
        time.sleep(0.02)
        beside = len(list(tmp_path.iterdir())) - 1
        mine.unlink()
        if cost is not None and cost < needs.get(number, 0):
            raise case_pool.OutOfMemory("too little")
        return cost is not None or beside == 0, f"{cost}, {beside} beside"

    outcome = run({number: 1 for number in range(8)}, case, workers=3)
    assert sorted(outcome.passed) == list(range(8)), outcome.failed
    assert outcome.passed[3].startswith("4,") and outcome.passed[5].startswith("None,")
    assert sorted(outcome.again) == [3, 3] + 4 * [5] + 4 * [6] and sorted(outcome.alone) == [5, 6]


def test_a_case_dearer_than_everything_runs_alone_and_last():
    outcome = run({0: 99, 1: 5, 2: 10}, lambda number, cost: ((cost is None) == (number == 0), ""))
    assert sorted(outcome.passed) == [0, 1, 2] and outcome.alone == [0]
    assert list(outcome.passed)[-1] == 0


def test_out_of_memory_with_all_of_it_is_a_failure():
    def case(number, cost):
        raise case_pool.OutOfMemory("too little for anybody")

    outcome = run({7: 1}, case)
    assert outcome.failed == {7: "too little for anybody"}


def test_a_worker_that_dies_fails_its_case_and_is_replaced():
    def case(number, cost):
        if number == 4:
            os._exit(3)
        return True, ""

    outcome = run({number: 1 for number in range(10)}, case, workers=1)
    assert list(outcome.failed) == [4] and "died, exit code 3" in outcome.failed[4]
    assert len(outcome.passed) == 9


def test_a_worker_that_hangs_is_ended():
    def case(number, cost):
        if number == 2:
            time.sleep(60)
        return True, ""

    outcome = run({number: 1 for number in range(4)}, case, workers=2, longest=0.8)
    assert "no answer in 0.8 s" in outcome.failed[2] and len(outcome.passed) == 3


def test_after_an_exception_a_fresh_worker_goes_on():
    def case(number, cost):
        if number == 9:
            raise RuntimeError("the device is lost")
        return True, str(os.getpid())

    outcome = run({number: number for number in range(10)}, case, workers=1)
    assert outcome.failed == {9: "RuntimeError: the device is lost"}
    assert len(outcome.passed) == 9 and len(set(outcome.passed.values())) == 1


def test_what_the_time_did_not_allow_is_counted():
    def case(number, cost):
        time.sleep(0.05)
        return True, ""

    outcome = run({number: 99 * (number == 5) for number in range(30)}, case, until=time.monotonic() + 0.3)
    assert outcome.passed and 5 in outcome.not_run
    assert len(outcome.passed) + len(outcome.not_run) == 30


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_cannot_start_leave_everything_not_run(workers):
    def prepare():
        os._exit(1)

    outcome = run({0: 1, 1: 1}, lambda number, cost: (True, ""), prepare=prepare, workers=workers)
    assert outcome.not_run == [0, 1]


def test_nothing_to_do():
    assert run({}, lambda number, cost: (True, "")) == case_pool.Outcome()
