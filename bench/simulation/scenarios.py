"""The acceptance scenarios of the fair queue: each yields one number with a bar.

A post takes 75 s at the median and costs about half a cent, as with a worker of 50 slots and 40
posts a minute. A fixed seed makes every run the same.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import fmean

from bench.simulation.model import SchedulingPolicy, ServedJob, SimulatedJob, simulate
from services.scheduler.fair_queue.fairness import jain_index

SLOTS = 50
COST = 5_000_000
SECONDS = 75.0

Arrival = tuple[float, str, float]
"""Time (seconds), store, and cost as a multiple of the usual cost."""
PolicyFactory = Callable[[Mapping[str, str]], SchedulingPolicy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`measure` takes the served jobs, and a second run of only the stores in `alone`."""

    name: str
    question: str
    arrivals: Sequence[Arrival]
    measure: Callable[[Sequence[ServedJob], Sequence[ServedJob]], float]
    at_most: float = inf
    at_least: float = -inf
    alone: frozenset[str] = frozenset()
    accounts: Mapping[str, str] = field(default_factory=dict)
    stall: tuple[float, float] = (inf, inf)

    def evaluate(self, policy: PolicyFactory) -> float:
        jobs = _jobs(self.arrivals)
        served = simulate(policy(self.accounts), jobs, slots=SLOTS, stall=self.stall)
        alone_jobs = [job for job in jobs if job.store in self.alone]
        return self.measure(served, simulate(policy(self.accounts), alone_jobs, slots=SLOTS))

    def meets_bar(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most

    @property
    def bar(self) -> str:
        low = f"≥ {self.at_least:g}" if self.at_least > -inf else ""
        high = f"≤ {self.at_most:g}" if self.at_most < inf else ""
        return ", ".join(filter(None, (low, high)))


def _jobs(arrivals: Sequence[Arrival]) -> list[SimulatedJob]:
    rng = random.Random(1)
    return [
        SimulatedJob(
            number=number,
            store=store,
            requested_at=at,
            cost=int(COST * times * rng.uniform(0.7, 1.3)),
            seconds=SECONDS * rng.lognormvariate(0, 0.25),
        )
        for number, (at, store, times) in enumerate(
            sorted(arrivals, key=lambda arrival: arrival[0])
        )
    ]


def _flood(store: str, count: int, *, at: float = 0.0, times: float = 1.0) -> list[Arrival]:
    return [(at, store, times)] * count


def _response(stores: Iterable[str]) -> Callable[[Sequence[ServedJob], Sequence[ServedJob]], float]:
    """Measure the stores' mean seconds from request to post, divided by the same when alone."""
    names = frozenset(stores)

    def mean(served: Sequence[ServedJob]) -> float:
        return fmean(
            served_job.ended_at - served_job.job.requested_at
            for served_job in served
            if served_job.job.store in names
        )

    return lambda served, alone: mean(served) / mean(alone)


def _spent(served: Sequence[ServedJob], start: float, end: float) -> Counter[str]:
    """Sum each store's cost of the jobs started between two times."""
    spent: Counter[str] = Counter()
    for served_job in served:
        if start <= served_job.started_at < end:
            spent[served_job.job.store] += served_job.job.cost
    return spent


def _share(
    stores: Iterable[str], start: float, end: float
) -> Callable[[Sequence[ServedJob], Sequence[ServedJob]], float]:
    names = frozenset(stores)

    def measure(served: Sequence[ServedJob], _: Sequence[ServedJob]) -> float:
        spent = _spent(served, start, end)
        return sum(spent[name] for name in names) / sum(spent.values())

    return measure


def _first_posts(stores: int) -> Callable[[Sequence[ServedJob], Sequence[ServedJob]], float]:
    """Measure when every store has a job started, divided by the ideal time."""

    def measure(served: Sequence[ServedJob], _: Sequence[ServedJob]) -> float:
        first: dict[str, float] = {}
        for served_job in served:
            first.setdefault(served_job.job.store, served_job.started_at)
        return max(first.values()) / (stores * SECONDS / SLOTS)

    return measure


_LIGHT = [f"light-{number}" for number in range(9)]
_IDENTITIES = [f"identity-{number}" for number in range(20)]
_HONEST = ["honest-1", "honest-2"]
_MANY = 10_000

SCENARIOS = (
    Scenario(
        name="one heavy store",
        question="nine light stores' time to a post beside a flood of 1,000 ÷ alone",
        arrivals=[
            *_flood("heavy", 1_000),
            *(
                (60.0 + 20 * turn + 2 * place, store, 1.0)
                for turn in range(10)
                for place, store in enumerate(_LIGHT)
            ),
        ],
        alone=frozenset(_LIGHT),
        measure=_response(_LIGHT),
        at_most=1.1,
    ),
    Scenario(
        name="trickle",
        question="a store's time to a post, one request every 15 s beside four floods ÷ alone",
        arrivals=[
            *(arrival for number in range(4) for arrival in _flood(f"flood-{number}", 600)),
            *((100.0 + 15 * number, "trickle", 1.0) for number in range(60)),
        ],
        alone=frozenset({"trickle"}),
        measure=_response(["trickle"]),
        at_most=1.1,
    ),
    Scenario(
        name="twenty identities of one account",
        question="the share of two honest stores beside twenty of one account (fair: 0.667)",
        arrivals=[arrival for store in (*_IDENTITIES, *_HONEST) for arrival in _flood(store, 400)],
        accounts=dict.fromkeys(_IDENTITIES, "cunning"),
        measure=_share(_HONEST, 0, 900),
        at_least=0.64,
        at_most=0.69,
    ),
    Scenario(
        name="balanced",
        question="Jain's index of money over ten busy stores, one with 3.4 times the cost per post",
        arrivals=[
            arrival
            for number in range(10)
            for arrival in _flood(f"s{number}", 400, times=3.4 if number == 0 else 1.0)
        ],
        measure=lambda served, _: jain_index(_spent(served, 0, 3_000).values()),
        at_least=0.99,
    ),
    Scenario(
        name="many keys",
        question=f"time until each of {_MANY:,} stores with three requests has one started ÷ ideal",
        arrivals=[arrival for number in range(_MANY) for arrival in _flood(f"s{number}", 3)],
        measure=_first_posts(_MANY),
        at_most=1.06,
    ),
    Scenario(
        name="heavy then idle",
        question="the share of a store back after half an hour, beside two busy ones (fair: 0.333)",
        arrivals=[
            *_flood("returns", 200),
            *_flood("steady-1", 2_000),
            *_flood("steady-2", 2_000),
            *_flood("returns", 600, at=2_700.0),
        ],
        measure=_share(["returns"], 2_700, 3_300),
        at_least=0.31,
        at_most=0.36,
    ),
    Scenario(
        name="a newcomer after a stall",
        question="the share of a store that arrived during a ten-minute stall (fair: 0.333)",
        arrivals=[
            *_flood("old-1", 1_000),
            *_flood("old-2", 1_000),
            *_flood("newcomer", 600, at=700.0),
        ],
        stall=(600.0, 1_200.0),
        measure=_share(["newcomer"], 1_200, 1_800),
        at_least=0.31,
        at_most=0.36,
    ),
)
