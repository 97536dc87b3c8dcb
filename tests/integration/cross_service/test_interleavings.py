"""Whatever shops do in whatever order, through two ingest processes, while services restart, are replaced or die: every
id that got a 201 is in one state, reached by legal steps, and what was paid is booked and charged once.

20 plans are played, always the same. With `INTERLEAVINGS=500` in the environment it is that many others.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import pairwise
from pprint import pformat
from uuid import UUID

import asyncpg
import pytest
from hypothesis import Phase, example, given, note, settings

from services.metrics.counting.rules.aggregate import merge
from services.metrics.counting.rules.fold import Shard, empty_shard, fold_event, shard_key
from shared.domain.job import TRANSITIONS, Status
from shared.domain.messages import EventKind, JobEvent
from shared.kafka.topics import RESULTS
from tests.support.interleaving_system import InterleavingRunner, InterleavingSystem
from tests.support.interleavings import Act, Change, Ledger, Plan, Post, draw_plans
from tests.support.scripted_provider import ProviderBehavior

_ASKED_FOR = os.environ.get("INTERLEAVINGS")
_ONE: list[Act] = [Post(shop=0, via=0, wish=ProviderBehavior.FINE, key=None)]

Rows = Mapping[UUID, asyncpg.Record]
Life = dict[tuple[int, EventKind], Status]
"""A job's states as all were told, by attempt and what was said of it, in this order."""


@pytest.fixture(scope="module")
def theatre(
    kafka: str, postgres: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InterleavingRunner]:
    with closing(
        InterleavingRunner(kafka, postgres, template_database, tmp_path_factory.mktemp("images"))
    ) as opened:
        yield opened


def _changes(*what: str) -> list[Act]:
    return [Change(what, shop=0, via=0, back=0)]


@pytest.mark.timeout(900)  # what is found is shrunk, for up to five minutes
@settings(
    max_examples=int(_ASKED_FOR or 20),
    derandomize=_ASKED_FOR is None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
)
@given(plan=draw_plans(moments=10))
# These were found: bills and doubts that came to nobody's account, and a call that was paid for twice.
@example(plan=[_ONE, "a call begins", _changes("cancel", "retry", "cancel")])
@example(plan=[_ONE, "the worker dies", _changes("cancel", "retry", "cancel")])
@example(
    plan=[
        _ONE,
        "a call begins",
        "the worker restarts",
        _changes("cancel", "retry", "cancel", "retry"),
    ]
)
def test_whatever_happens_in_whatever_order_ends_in_one_legal_state(
    theatre: InterleavingRunner, plan: Plan
) -> None:
    note(pformat(plan))
    theatre.play(partial(_play, plan))


async def _play(plan: Plan, stage: InterleavingSystem) -> None:
    shops, books = await stage.play(plan)
    note(pformat(books))
    books.judge_keys()
    of_shops = "SELECT * FROM blog_generations WHERE instance_id = ANY ($1)"
    rows = {row["id"]: row for row in await stage.backend.database.fetch(of_shops, shops)}
    assert rows.keys() == books.wishes.keys(), "what got a 201 is there, and nothing else"
    told = [
        event
        for _, event in await stage.backend.read_records(RESULTS)
        if isinstance(event, JobEvent)
    ]
    events = [event for event in told if event.job in rows]
    lives = _lives(events)
    for job, row in rows.items():
        _judge_life(row, lives[job], books, deaths=plan.count("the worker dies"))
    assert _counted(events) == Counter(row["status"] for row in rows.values()), (
        "metrics counts what PostgreSQL has"
    )
    await _judge_money(stage, shops, rows)


def _judge_life(row: asyncpg.Record, life: Life, books: Ledger, *, deaths: int) -> None:
    job, status, about = row["id"], row["status"], (dict(row), life)
    states = list(life.values())
    assert states[-1] == status, about
    assert all(_reachable(before, after) for before, after in pairwise(states)), about
    assert row["retries"] == books.changed["retry"][job], about
    cancelled = [at for at, state in life.items() if state is Status.CANCELLED]
    assert len(cancelled) == books.changed["cancel"][job], about
    if status == Status.FAILED:
        declined = (row["error_code"], books.wishes[job]) == ("declined", ProviderBehavior.DECLINED)
        assert declined or (row["error_code"] == "in-doubt" and deaths > 1), about
    elif status == Status.DONE:
        assert books.wishes[job] != ProviderBehavior.DECLINED, about


async def _judge_money(stage: InterleavingSystem, shops: list[str], rows: Rows) -> None:
    """Bills, steps, rows, charges and the stores' months are one sum; no call without an answer is passed over."""
    database, provider = stage.backend.database, stage.worker.provider
    steps = "SELECT job_id, sum(cost_nanousd)::bigint AS cost, sum(in_doubt)::int AS in_doubt FROM blog_steps"
    booked = {row["job_id"]: row for row in await database.fetch(f"{steps} GROUP BY job_id")}
    billed = dict.fromkeys(shops, 0)
    for job, row in rows.items():
        step = booked.get(job, {"cost": 0, "in_doubt": 0})
        sums = step["cost"], row["cost_nanousd"], row["charged_nanousd"], provider.billed[job]
        assert len(set(sums)) == 1, (job, sums)
        assert step["in_doubt"] >= provider.lost[job], (job, step, provider.lost[job])
        billed[row["instance_id"]] += provider.billed[job]
    months = "SELECT instance_id, sum(spent_nanousd)::bigint AS spent FROM store_spend GROUP BY instance_id"
    spent = {row["instance_id"]: row["spent"] for row in await database.fetch(months)}
    assert {shop: spent.get(shop, 0) for shop in shops} == billed
    assert not [
        (job, step) for (job, step), times in provider.served.items() if times > 1 and job in rows
    ], "paid twice"


def _counted(events: list[JobEvent]) -> Counter[str]:
    """By the rules of metrics."""
    shards: defaultdict[str, Shard] = defaultdict(empty_shard)
    for event in events:
        fold_event(event, shards[shard_key(event)])
    return +Counter(merge(shard["aggregate"] for shard in shards.values())["counts"])


def _lives(events: list[JobEvent]) -> Mapping[UUID, Life]:
    """What is told again is the same."""
    told: defaultdict[UUID, Life] = defaultdict(dict)
    order = list(EventKind)
    for event in sorted(events, key=lambda event: (event.attempt, order.index(event.kind))):
        known = told[event.job].setdefault((event.attempt, event.kind), event.status)
        assert known is event.status, (event.job, event.attempt, known, event.status)
    return told


def _reachable(before: Status, after: Status) -> bool:
    """Directly, or by way of PROCESSING, of which a worker that died may have said nothing."""
    by_way = Status.PROCESSING in TRANSITIONS[before] and after in TRANSITIONS[Status.PROCESSING]
    return before is after or after in TRANSITIONS[before] or by_way
