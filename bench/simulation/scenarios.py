"""The acceptance scenarios of the fair queue: each yields one number with a bar.

In the first ones a post takes 75 s at the median, one worker of 50 slots writes 40 posts a minute,
and no provider limits the calls, so that only the order of the queue decides. In the others calls
are quick, and the provider's limit decides. A fixed seed makes every run the same.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from statistics import fmean
from typing import Any

from bench.simulation.policies import CAP, COST, Stores, create_fair_queue
from sandbox.simulation.arrivals import Arrival, StoreClass, Workload
from sandbox.simulation.settings import (
    IMAGE,
    READS,
    TEXT,
    Latencies,
    Outage,
    TextSize,
    TextSizes,
    WorldSettings,
)
from sandbox.simulation.system.jobs import SimulatedJob
from sandbox.simulation.system.scheduler import JobQueue
from sandbox.simulation.world import SimulatedWorld
from services.scheduler.fair_queue.fairness import jain_index

SLOTS = 50
SECONDS = 75.0
_AMPLE = 1e9
_RPM = 600.0
_WINDOW_S = 20.0
_USUAL = TextSize(reserved_tokens=1_000, charged_tokens=1_000, used_tokens=500, cost=COST // 2)
_OUTAGE = Outage(provider=TEXT, at=600, seconds=600)

PolicyFactory = Callable[[Stores], JobQueue]
Measure = Callable[[SimulatedWorld, SimulatedWorld], float]


def _make_settings(**changes: Any) -> WorldSettings:
    """Return one worker and limits that delay no call, apart from `changes`."""
    defaults: dict[str, Any] = {
        "slots": SLOTS,
        "cap": CAP,
        "default_cost": COST,
        "limits": _limits(_AMPLE),
        "text_sizes": TextSizes(outline=_USUAL, article=_USUAL, largest_tokens=1_000),
        "latencies": Latencies(outline_s=SECONDS / 5, article_s=SECONDS * 4 / 5, spread=0.25),
        "max_pending_per_store": 1_000_000,
        "max_pending_total": 1_000_000,
    }
    return WorldSettings(**(defaults | changes))


def _limits(rpm: float) -> dict[str, dict[str, float]]:
    return {
        TEXT: {"requests": rpm, "tokens": _AMPLE * 1_000},
        IMAGE: {"requests": _AMPLE},
        READS: {"reads": _AMPLE},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`measure` takes the world after the run, and another one in which only `alone` arrives.

    A scenario with variants yields their mean: one moment may be a lucky one.
    """

    name: str
    question: str
    arrivals: Sequence[Arrival]
    measure: Measure
    at_most: float = inf
    at_least: float = -inf
    alone: Sequence[Arrival] = ()
    accounts: Mapping[str, str] = field(default_factory=dict)
    settings: WorldSettings = field(default_factory=_make_settings)
    variants: Sequence["Scenario"] = ()

    def evaluate(self, policy: PolicyFactory) -> float:
        if self.variants:
            return fmean(variant.evaluate(policy) for variant in self.variants)
        return self.measure(*(self.run(policy, one) for one in (self.arrivals, self.alone)))

    def run(self, policy: PolicyFactory, arrivals: Sequence[Arrival]) -> SimulatedWorld:
        costs = {arrival.store: arrival.cost for arrival in arrivals}
        world = SimulatedWorld(
            self.settings,
            Workload(
                arrivals=sorted(arrivals, key=lambda arrival: arrival.at),
                classes=[StoreClass(name="all", stores=len(costs))],
                posts=len(arrivals),
                stores=len(costs),
            ),
            queue=policy(Stores(accounts=self.accounts, costs=costs)),
            window_s=_WINDOW_S,
            keep_jobs=True,
        )
        world.run()
        return world

    def meets_bar(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most

    @property
    def bar(self) -> str:
        low = f"≥ {self.at_least:g}" if self.at_least > -inf else ""
        high = f"≤ {self.at_most:g}" if self.at_most < inf else ""
        return ", ".join(filter(None, (low, high)))


def _flood(store: str, count: int, *, at: float = 0.0, times: float = 1.0) -> list[Arrival]:
    return [_arrival(at, store, times)] * count


def _arrival(at: float, store: str, times: float = 1.0) -> Arrival:
    return Arrival(at, store, 0, needs_image=False, cost=times)


def _response(stores: Iterable[str]) -> Measure:
    """Measure the stores' mean seconds from request to post, divided by the same when alone."""
    names = frozenset(stores)

    def seconds(world: SimulatedWorld) -> float:
        ends = [(job.requested_at, job.ended_at) for job in _jobs(world) if job.store in names]
        if any(ended_at is None for _, ended_at in ends):
            return inf
        return fmean([(ended_at or 0.0) - at for at, ended_at in ends])

    return lambda world, alone: seconds(world) / seconds(alone)


def _jobs(world: SimulatedWorld) -> Sequence[SimulatedJob]:
    return world.jobs or ()


def _spent(
    world: SimulatedWorld, start: float, end: float, *, at_end: bool = False
) -> Counter[str]:
    """Sum each store's mean cost of the jobs started, or ended, between two times."""
    spent: Counter[str] = Counter()
    for job in _jobs(world):
        at = job.ended_at if at_end else job.started_at
        if at is not None and start <= at < end:
            spent[job.store] += round(COST * job.cost_factor)
    return spent


def _share(stores: Iterable[str], start: float, end: float, *, at_end: bool = False) -> Measure:
    names = frozenset(stores)

    def measure(world: SimulatedWorld, _: SimulatedWorld) -> float:
        spent = _spent(world, start, end, at_end=at_end)
        return sum(spent[name] for name in names) / sum(spent.values())

    return measure


def _first_posts(stores: int) -> Measure:
    """Measure when every store has a job started, divided by the ideal time."""

    def measure(world: SimulatedWorld, _: SimulatedWorld) -> float:
        first: dict[str, float] = {}
        for job in _jobs(world):
            at = inf if job.started_at is None else job.started_at
            first[job.store] = min(first.get(job.store, inf), at)
        return max(first.values()) / (stores * SECONDS / SLOTS)

    return measure


def _use_of_requests(world: SimulatedWorld, _: SimulatedWorld) -> float:
    """Measure the used part of the limit on requests, from second 60 until nothing waits."""
    busy = [one for one in world.statistics.timeline.samples if one.at >= 60 and one.waiting]
    minutes = (busy[-1].at - busy[0].at) / 60
    name = f"{TEXT} requests"
    return (busy[-1].charged[name] - busy[0].charged[name]) / (minutes * _RPM)


def _worst_jain(world: SimulatedWorld, _: SimulatedWorld) -> float:
    return min(world.statistics.fairness.indexes, default=0.0)


def _rejected(world: SimulatedWorld, _: SimulatedWorld) -> float:
    return sum(account.rejected for account in world.providers.accounts.values())


_LIGHT = [f"light-{number}" for number in range(9)]
_IDENTITIES = [f"identity-{number}" for number in range(20)]
_HONEST = ["honest-1", "honest-2"]
_MANY = 10_000
_REST = 250
"""The posts of the flood that are left when the light stores come."""
_LIGHT_ARRIVALS = [
    _arrival(60.0 + 20 * turn + 2 * place, store)
    for turn in range(10)
    for place, store in enumerate(_LIGHT)
]
_TRICKLE = [_arrival(100.0 + 15 * number, "trickle") for number in range(60)]

_ORDER_SCENARIOS = (
    Scenario(
        name="one heavy store",
        question="nine light stores' time to a post beside a flood of 1,000 ÷ alone",
        arrivals=[
            *_flood("heavy", 1_000),
            *_LIGHT_ARRIVALS,
        ],
        alone=_LIGHT_ARRIVALS,
        measure=_response(_LIGHT),
        at_most=1.1,
    ),
    Scenario(
        name="trickle",
        question="a store's time to a post, one request every 15 s beside four floods ÷ alone",
        arrivals=[
            *(arrival for number in range(4) for arrival in _flood(f"flood-{number}", 600)),
            *_TRICKLE,
        ],
        alone=_TRICKLE,
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
        settings=_make_settings(until=900),
    ),
    Scenario(
        name="balanced",
        question="Jain's index of money over ten busy stores, one with 3.4 times the cost per post",
        arrivals=[
            arrival
            for number in range(10)
            for arrival in _flood(f"s{number}", 400, times=3.4 if number == 0 else 1.0)
        ],
        measure=lambda world, _: jain_index(_spent(world, 0, 3_000).values()),
        at_least=0.99,
        settings=_make_settings(until=3_000),
    ),
    Scenario(
        name="many keys",
        question=f"time until each of {_MANY:,} stores with three requests has one started ÷ ideal",
        arrivals=[arrival for number in range(_MANY) for arrival in _flood(f"s{number}", 3)],
        measure=_first_posts(_MANY),
        at_most=1.06,
        settings=_make_settings(until=1.2 * _MANY * SECONDS / SLOTS),
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
        settings=_make_settings(until=3_300),
    ),
    Scenario(
        name="a newcomer during an outage",
        question="the share of a store that arrived while nothing could start (fair: 0.333)",
        arrivals=[
            *_flood("old-1", 1_000),
            *_flood("old-2", 1_000),
            *_flood("newcomer", 600, at=700.0),
        ],
        measure=_share(["newcomer"], 1_350, 1_950, at_end=True),
        at_least=0.31,
        at_most=0.36,
        settings=_make_settings(outages=(_OUTAGE,), until=1_950),
    ),
)


def _limit_settings(workers: int) -> WorldSettings:
    return _make_settings(
        workers=workers,
        limits=_limits(_RPM),
        latencies=Latencies(outline_s=0.3, article_s=0.3, spread=0.0),
    )


def _light_store_scenario(workers: int) -> Scenario:
    """Build the scenario of nine light stores beside a flood at a limit that binds.

    They come one second before so many posts of the flood are done, when the account has spent its
    saved minute. In the other run the flood has only those posts, so that the account has the same
    past, and no permit to spare.
    """
    settings = _limit_settings(workers)
    return Scenario(
        name=f"flood at the limit, {workers} × {SLOTS} slots",
        question=f"light stores' time to a post, RPM 600, beside a flood of {_REST} ÷ alone",
        arrivals=(),
        measure=_response(_LIGHT),
        at_most=1.1,
        settings=settings,
        variants=[_light_store_variant(settings, earlier) for earlier in (380, 450, 520)],
    )


def _light_store_variant(settings: WorldSettings, earlier: int) -> Scenario:
    flood = _flood("flood", earlier + _REST)
    only = Scenario(name="", question="", arrivals=(), measure=_rejected, settings=settings)
    ends = sorted(job.ended_at or inf for job in _jobs(only.run(create_fair_queue, flood)))
    light = [_arrival(ends[earlier - 1] - 1.0, store) for store in _LIGHT for _ in range(6)]
    return replace(
        only,
        arrivals=[*flood, *light],
        alone=[*flood[:earlier], *light],
        measure=_response(_LIGHT),
    )


def _busy_scenarios() -> list[Scenario]:
    """Build the scenarios of ten busy stores, eight workers, and a limit that binds."""
    arrivals = [arrival for number in range(10) for arrival in _flood(f"s{number}", 100)]
    questions: list[tuple[str, Measure, float, float]] = [
        ("worst Jain's index of money within 20 s", _worst_jain, 0.99, inf),
        ("used part of the limit", _use_of_requests, 0.985, inf),
        ("429 answers", _rejected, -inf, 0),
    ]
    return [
        Scenario(
            name="ten busy stores at the limit, 8 workers",
            question=question,
            arrivals=arrivals,
            measure=measure,
            settings=_limit_settings(8),
            at_least=at_least,
            at_most=at_most,
        )
        for question, measure, at_least, at_most in questions
    ]


def build_scenarios() -> list[Scenario]:
    """Return all scenarios: the order alone, then a limit that binds."""
    light = [_light_store_scenario(workers) for workers in (1, 2, 4, 8)]
    return [*_ORDER_SCENARIOS, *light, *_busy_scenarios()]
