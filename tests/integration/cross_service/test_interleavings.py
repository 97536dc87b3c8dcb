"""Random interleavings of client calls and service failures keep every invariant.

Stores call two ingest services in any order while services restart, are replaced or die. Every
accepted job reaches one state by legal transitions, and every payment is booked and charged once.
The test executes the same 20 plans each time; `INTERLEAVINGS=500` in the environment makes it
execute that many others.
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
from tests.support.interleavings import Act, Change, Ledger, Plan, SinglePost, draw_plans
from tests.support.scripted_provider import ProviderBehavior

_EXAMPLES = os.environ.get("INTERLEAVINGS")
_ONE: list[Act] = [SinglePost(shop=0, via=0, requested_behavior=ProviderBehavior.FINE, key=None)]

Rows = Mapping[UUID, asyncpg.Record]
Life = dict[tuple[int, EventKind], Status]
"""A job's published states by attempt and kind of event, in this order."""


@pytest.fixture(scope="module")
def runner(
    kafka: str, postgres: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InterleavingRunner]:
    with closing(
        InterleavingRunner(kafka, postgres, template_database, tmp_path_factory.mktemp("images"))
    ) as opened:
        yield opened


def _changes(*actions: str) -> list[Act]:
    return [Change(actions, shop=0, via=0, back=0)]


@pytest.mark.timeout(900)  # shrinking a failure takes up to five minutes
@settings(
    max_examples=int(_EXAMPLES or 20),
    derandomize=_EXAMPLES is None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
)
@given(plan=draw_plans(moments=10))
# Regressions: unbooked bills, unbooked in-doubt calls, and a call that was paid for twice.
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
def test_any_interleaving_ends_each_job_in_one_legal_state(
    runner: InterleavingRunner, plan: Plan
) -> None:
    note(pformat(plan))
    runner.execute(partial(_check_plan, plan))


async def _check_plan(plan: Plan, system: InterleavingSystem) -> None:
    shops, ledger = await system.execute(plan)
    note(pformat(ledger))
    ledger.check_idempotency_keys()
    of_shops = "SELECT * FROM blog_generations WHERE instance_id = ANY ($1)"
    rows = {row["id"]: row for row in await system.backend.database.fetch(of_shops, shops)}
    assert rows.keys() == ledger.requested_behaviors.keys(), "exactly the accepted jobs have rows"
    published = [
        event
        for _, event in await system.backend.read_records(RESULTS)
        if isinstance(event, JobEvent)
    ]
    events = [event for event in published if event.job in rows]
    lives = _lives(events)
    for job, row in rows.items():
        _check_life(row, lives[job], ledger, deaths=plan.count("the worker dies"))
    assert _counted(events) == Counter(row["status"] for row in rows.values()), (
        "metrics and PostgreSQL disagree"
    )
    await _check_money(system, shops, rows)


def _check_life(row: asyncpg.Record, life: Life, ledger: Ledger, *, deaths: int) -> None:
    job, status, about = row["id"], row["status"], (dict(row), life)
    states = list(life.values())
    assert states[-1] == status, about
    assert all(_reachable(before, after) for before, after in pairwise(states)), about
    assert row["retries"] == ledger.changed["retry"][job], about
    cancelled = [at for at, state in life.items() if state is Status.CANCELLED]
    assert len(cancelled) == ledger.changed["cancel"][job], about
    if status == Status.FAILED:
        declined = (row["error_code"], ledger.requested_behaviors[job]) == (
            "refused",
            ProviderBehavior.DECLINED,
        )
        assert declined or (row["error_code"] == "in-doubt" and deaths > 1), about
    elif status == Status.DONE:
        assert ledger.requested_behaviors[job] != ProviderBehavior.DECLINED, about


async def _check_money(system: InterleavingSystem, shops: list[str], rows: Rows) -> None:
    """Check that bills, steps, rows, charges and the stores' months agree.

    A call without an answer is in doubt.
    """
    database, provider = system.backend.database, system.worker.provider
    steps = (
        "SELECT job_id, sum(cost_nanousd)::bigint AS cost, sum(in_doubt)::int AS in_doubt"
        "  FROM blog_steps GROUP BY job_id"
    )
    booked = {row["job_id"]: row for row in await database.fetch(steps)}
    billed = dict.fromkeys(shops, 0)
    for job, row in rows.items():
        step = booked.get(job, {"cost": 0, "in_doubt": 0})
        sums = step["cost"], row["cost_nanousd"], row["charged_nanousd"], provider.billed[job]
        assert len(set(sums)) == 1, (job, sums)
        assert step["in_doubt"] >= provider.lost[job], (job, step, provider.lost[job])
        billed[row["instance_id"]] += provider.billed[job]
    months = (
        "SELECT instance_id, sum(spent_nanousd)::bigint AS spent"
        "  FROM store_spend GROUP BY instance_id"
    )
    spent = {row["instance_id"]: row["spent"] for row in await database.fetch(months)}
    assert {shop: spent.get(shop, 0) for shop in shops} == billed
    assert not [
        (job, step) for (job, step), times in provider.served.items() if times > 1 and job in rows
    ], "a call was paid for twice"


def _counted(events: list[JobEvent]) -> Counter[str]:
    """Count the jobs by status with the rules of metrics."""
    shards: defaultdict[str, Shard] = defaultdict(empty_shard)
    for event in events:
        fold_event(event, shards[shard_key(event)])
    return +Counter(merge(shard["aggregate"] for shard in shards.values())["counts"])


def _lives(events: list[JobEvent]) -> Mapping[UUID, Life]:
    """Group the events by job; a repeated event must be the same."""
    lives: defaultdict[UUID, Life] = defaultdict(dict)
    order = list(EventKind)
    for event in sorted(events, key=lambda event: (event.attempt, order.index(event.kind))):
        known = lives[event.job].setdefault((event.attempt, event.kind), event.status)
        assert known is event.status, (event.job, event.attempt, known, event.status)
    return lives


def _reachable(before: Status, after: Status) -> bool:
    """Return whether a transition is legal, directly or through an unpublished PROCESSING state.

    A worker that died may not have published it.
    """
    indirectly = (
        Status.PROCESSING in TRANSITIONS[before] and after in TRANSITIONS[Status.PROCESSING]
    )
    return before is after or after in TRANSITIONS[before] or indirectly
