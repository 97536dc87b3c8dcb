"""The seven acceptance scenarios of the fair order, by name: each is one number with a bar.

A blog takes 75 s at the median and costs about half a cent: what a worker with 50 slots and 40 blogs a minute makes of
it. Numbers are drawn from a seed, so a scenario is always the same.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import fmean

from bench.simulation.model import Job, Policy, Served, run
from services.scheduler.fair_queue.fairness import jain_index

SLOTS = 50
COST = 5_000_000
SECONDS = 75.0

Ask = tuple[float, str, float]
"""When (seconds), which store, and how many times the usual cost."""
Policies = Callable[[Mapping[str, str]], Policy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`measure` gets what was served and, where `alone` names stores, what they got with nobody else there."""

    name: str
    question: str
    asks: Sequence[Ask]
    measure: Callable[[Sequence[Served], Sequence[Served]], float]
    at_most: float = inf
    at_least: float = -inf
    alone: frozenset[str] = frozenset()
    accounts: Mapping[str, str] = field(default_factory=dict)
    stall: tuple[float, float] = (inf, inf)

    def number(self, policy: Policies) -> float:
        jobs = _jobs(self.asks)
        served = run(policy(self.accounts), jobs, slots=SLOTS, stall=self.stall)
        lonely = [job for job in jobs if job.store in self.alone]
        return self.measure(served, run(policy(self.accounts), lonely, slots=SLOTS))

    def holds(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most

    @property
    def bar(self) -> str:
        low = f"≥ {self.at_least:g}" if self.at_least > -inf else ""
        high = f"≤ {self.at_most:g}" if self.at_most < inf else ""
        return ", ".join(filter(None, (low, high)))


def _jobs(asks: Sequence[Ask]) -> list[Job]:
    chance = random.Random(1)
    return [
        Job(
            number=number,
            store=store,
            asked_at=at,
            cost=int(COST * times * chance.uniform(0.7, 1.3)),
            seconds=SECONDS * chance.lognormvariate(0, 0.25),
        )
        for number, (at, store, times) in enumerate(sorted(asks, key=lambda ask: ask[0]))
    ]


def _flood(store: str, count: int, *, at: float = 0.0, times: float = 1.0) -> list[Ask]:
    return [(at, store, times)] * count


def _response(stores: Iterable[str]) -> Callable[[Sequence[Served], Sequence[Served]], float]:
    """Mean seconds from request to post of these stores' jobs ÷ the same with nobody else there."""
    names = frozenset(stores)

    def mean(served: Sequence[Served]) -> float:
        return fmean(one.ended_at - one.job.asked_at for one in served if one.job.store in names)

    return lambda served, alone: mean(served) / mean(alone)


def _spent(served: Sequence[Served], start: float, end: float) -> Counter[str]:
    """What was spent on each store's jobs that were started between two times."""
    spent: Counter[str] = Counter()
    for one in served:
        if start <= one.started_at < end:
            spent[one.job.store] += one.job.cost
    return spent


def _share(
    stores: Iterable[str], start: float, end: float
) -> Callable[[Sequence[Served], Sequence[Served]], float]:
    names = frozenset(stores)

    def measure(served: Sequence[Served], _: Sequence[Served]) -> float:
        spent = _spent(served, start, end)
        return sum(spent[name] for name in names) / sum(spent.values())

    return measure


def _first_posts(stores: int) -> Callable[[Sequence[Served], Sequence[Served]], float]:
    """When the last of all stores had its first job started ÷ the time that so many jobs take."""

    def measure(served: Sequence[Served], _: Sequence[Served]) -> float:
        first: dict[str, float] = {}
        for one in served:
            first.setdefault(one.job.store, one.started_at)
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
        asks=[
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
        asks=[
            *(ask for number in range(4) for ask in _flood(f"flood-{number}", 600)),
            *((100.0 + 15 * number, "trickle", 1.0) for number in range(60)),
        ],
        alone=frozenset({"trickle"}),
        measure=_response(["trickle"]),
        at_most=1.1,
    ),
    Scenario(
        name="twenty identities of one account",
        question="the part of two honest stores beside twenty that are one account (fair: 0.667)",
        asks=[ask for store in (*_IDENTITIES, *_HONEST) for ask in _flood(store, 400)],
        accounts=dict.fromkeys(_IDENTITIES, "cunning"),
        measure=_share(_HONEST, 0, 900),
        at_least=0.64,
        at_most=0.69,
    ),
    Scenario(
        name="balanced",
        question="Jain's index of money over ten stores with work, one of which costs 3.4 times as much a blog",
        asks=[
            ask
            for number in range(10)
            for ask in _flood(f"s{number}", 400, times=3.4 if number == 0 else 1.0)
        ],
        measure=lambda served, _: jain_index(_spent(served, 0, 3_000).values()),
        at_least=0.99,
    ),
    Scenario(
        name="many keys",
        question=f"until each of {_MANY:,} stores with three requests had its first begun ÷ ideal",
        asks=[ask for number in range(_MANY) for ask in _flood(f"s{number}", 3)],
        measure=_first_posts(_MANY),
        at_most=1.06,
    ),
    Scenario(
        name="heavy then idle",
        question="the part of a store that was idle for half an hour, back beside two with work (fair: 0.333)",
        asks=[
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
        question="the part of a store that came while nothing could start for ten minutes (fair: 0.333)",
        asks=[*_flood("old-1", 1_000), *_flood("old-2", 1_000), *_flood("newcomer", 600, at=700.0)],
        stall=(600.0, 1_200.0),
        measure=_share(["newcomer"], 1_200, 1_800),
        at_least=0.31,
        at_most=0.36,
    ),
)
