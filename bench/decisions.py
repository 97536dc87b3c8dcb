"""Measures the time of a scheduling decision by number of stores, and the memory of a backlog."""

import time
import tracemalloc
from uuid import UUID

from bench.result import Ratio, Result
from services.scheduler.fair_queue.accounts import WaitingJob
from services.scheduler.fair_queue.queue import FairQueue

_FEW, _MANY = 10, 100_000
_JOBS = 200_000
_DECISIONS = 20_000
_BACKLOG, _SAMPLE = 1_000_000, 200_000
_REPEATS = 5


def run() -> Result:
    few, many = _create_queue(_FEW), _create_queue(_MANY)
    _time_decision(few), _time_decision(many)  # warm
    times = [(_time_decision(few), _time_decision(many)) for _ in range(_REPEATS)]
    fastest_few, fastest_many = min(few for few, _ in times), min(many for _, many in times)
    memory = _measure_memory(_SAMPLE) * _BACKLOG / _SAMPLE / 2**20
    growth = fastest_many / fastest_few
    rows = [
        [f"{_FEW:,} stores", f"{fastest_few * 1e6:.1f} µs a decision"],
        [f"{_MANY:,} stores", f"{fastest_many * 1e6:.1f} µs a decision"],
        [f"{_BACKLOG:,} waiting jobs (scaled from {_SAMPLE:,})", f"{memory:.0f} MiB"],
    ]
    ratios = [
        Ratio(
            name=f"a decision with {_MANY:,} stores ÷ with {_FEW}",
            measured=growth,
            target="≤ 1.3",
            met=growth <= 1.3,
        ),
        Ratio(
            name="MiB for 1,000,000 waiting jobs",
            measured=memory,
            target="≤ 300",
            met=memory <= 300,
        ),
    ]
    return Result(
        question="What does a decision cost, and a backlog?",
        header=["", ""],
        rows=rows,
        ratios=ratios,
    )


def _create_queue(stores: int) -> FairQueue:
    fair = FairQueue(cap=20, default_cost=5_000_000)
    for number in range(_JOBS):
        fair.enqueue(_waiting_job(number, stores), 0.0)
    return fair


def _waiting_job(number: int, stores: int) -> WaitingJob:
    return WaitingJob.create(
        job=UUID(int=number), store=f"store-{number % stores}", created_at=float(number)
    )


def _time_decision(fair: FairQueue) -> float:
    """Measure the seconds of one decision: pick the next job, settle it and queue it again."""
    began = time.perf_counter()
    for _ in range(_DECISIONS):
        picked = fair.pick_next(0.0)
        assert picked is not None
        fair.settle_job(picked.job, picked.store, picked.reserved, ended=True)
        fair.enqueue(WaitingJob.create(job=picked.job, store=picked.store, created_at=0.0), 0.0)
    return (time.perf_counter() - began) / _DECISIONS


def _measure_memory(jobs: int) -> int:
    """Measure the bytes of this many waiting jobs of 1,000 stores, including their ids."""
    tracemalloc.start()
    fair = FairQueue(cap=20, default_cost=5_000_000)
    names = [f"store-{number}" for number in range(1_000)]
    before = tracemalloc.get_traced_memory()[0]
    for number in range(jobs):
        fair.enqueue(
            WaitingJob.create(
                job=UUID(int=number), store=names[number % 1_000], created_at=float(number)
            ),
            0.0,
        )
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return taken
