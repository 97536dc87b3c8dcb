"""What does one decision of the fair order cost as stores and backlog grow, and what memory does a backlog take?"""

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
    few, many = _order(_FEW), _order(_MANY)
    _decide(few), _decide(many)  # warm
    times = [(_decide(few), _decide(many)) for _ in range(_REPEATS)]
    fastest_few, fastest_many = min(few for few, _ in times), min(many for _, many in times)
    memory = _memory_of(_SAMPLE) * _BACKLOG / _SAMPLE / 2**20
    growth = fastest_many / fastest_few
    rows = [
        [f"{_FEW:,} stores", f"{fastest_few * 1e6:.1f} µs a decision"],
        [f"{_MANY:,} stores", f"{fastest_many * 1e6:.1f} µs a decision"],
        [f"{_BACKLOG:,} waiting jobs (scaled from {_SAMPLE:,})", f"{memory:.0f} MiB"],
    ]
    ratios = [
        Ratio(
            what=f"a decision with {_MANY:,} stores ÷ with {_FEW}",
            seen=growth,
            bar="≤ 1.3",
            held=growth <= 1.3,
        ),
        Ratio(what="MiB for 1,000,000 waiting jobs", seen=memory, bar="≤ 300", held=memory <= 300),
    ]
    return Result(
        question="What does a decision cost, and a backlog?",
        header=["", ""],
        rows=rows,
        ratios=ratios,
    )


def _order(stores: int) -> FairQueue:
    order = FairQueue(cap=20, default_cost=5_000_000)
    for number in range(_JOBS):
        order.enqueue(_waiting(number, stores), 0.0)
    return order


def _waiting(number: int, stores: int) -> WaitingJob:
    return WaitingJob.create(
        job=UUID(int=number), store=f"store-{number % stores}", created_at=float(number)
    )


def _decide(order: FairQueue) -> float:
    """Seconds a decision: pick the next job, settle one that was picked before, put one back in the queue."""
    began = time.perf_counter()
    for _ in range(_DECISIONS):
        picked = order.pick_next(0.0)
        assert picked is not None
        order.settle_job(picked.job, picked.store, picked.reserved, ended=True)
        order.enqueue(WaitingJob.create(job=picked.job, store=picked.store, created_at=0.0), 0.0)
    return (time.perf_counter() - began) / _DECISIONS


def _memory_of(jobs: int) -> int:
    """Bytes that this many waiting jobs of 1,000 stores take, their ids included."""
    tracemalloc.start()
    order = FairQueue(cap=20, default_cost=5_000_000)
    names = [f"store-{number}" for number in range(1_000)]
    before = tracemalloc.get_traced_memory()[0]
    for number in range(jobs):
        order.enqueue(
            WaitingJob.create(job=UUID(int=number), store=names[number % 1_000], created_at=float(number)),
            0.0,
        )
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return taken
