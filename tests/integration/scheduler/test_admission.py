"""A full queue closes its store's door on blog.control, and opens it again, whoever leads by then."""

from functools import partial

import pytest

from shared.domain.messages import AdmissionState, Message, SchedulerReport
from shared.kafka.publisher import Outgoing
from shared.kafka.topics import CONTROL, REQUESTS, WORKERS
from tests.support.environment import World, a_request
from tests.support.eventually import eventually
from tests.support.scheduler import Start, admitted, at_least, offer, started

A_TURN = 500
"""Records that the scheduler reads at once, at most."""


@pytest.fixture
def start(world: World, database: str) -> Start:
    return partial(started, world, database)


async def _said(world: World) -> dict[str | None, Message | bytes | None]:
    """The last word on every door."""
    return dict(await world.read_all(CONTROL))


async def _words(world: World) -> list[Message | bytes | None]:
    return [gate for _, gate in await world.read_all(CONTROL)]


async def _closed(
    world: World, stores: set[str]
) -> dict[str | None, Message | bytes | None] | None:
    said = await _said(world)
    return said if {store for store, gate in said.items() if gate is not None} == stores else None


async def _all_open(world: World, stores: set[str]) -> bool:
    said = await _said(world)
    return said.keys() == stores and not any(said.values())


async def test_a_full_queue_closes_its_door_and_what_came_through_is_admitted(
    world: World, start: Start
) -> None:
    async with start(max_pending_per_store=5):
        for _ in range(8):
            await world.ask(a_request(store="full"))
        await world.ask(a_request(store="other"))
        await eventually(partial(admitted, world, 9))
        said = await eventually(partial(_closed, world, {"full"}), every=0.2)
        assert said is not None
        gate = said["full"]
        assert isinstance(gate, AdmissionState)
        assert (gate.store, gate.closed, gate.reason) == ("full", True, "queue-full")
        assert gate.retry_after_s > 0
        await eventually(partial(_closed_stores_reported, world, 1), every=0.2)
        await offer(world, slots=9)
        await eventually(partial(_all_open, world, {"full"}), every=0.2)
        assert len(await at_least(world, 9)) == 9


async def test_a_door_is_said_closed_before_more_is_admitted_than_one_turn(
    world: World, start: Start
) -> None:
    """Whatever the machine's speed: the turn that passes the limit says so, and only then the next is read."""
    limit, asked = 5, 3 * A_TURN
    async with start(max_pending_per_store=limit):
        await eventually(
            partial(_closed_stores_reported, world, 0)
        )  # a second passes until it reports again
        await world.publisher.publish_all(
            [
                Outgoing(topic=REQUESTS, key="full", message=a_request(store="full"))
                for _ in range(asked)
            ]
        )
        await eventually(partial(admitted, world, asked))
        said = await eventually(partial(_closed, world, {"full"}), every=0.2)
    assert said is not None
    closings = [gate.at for gate in await _words(world) if isinstance(gate, AdmissionState)]
    before = await world.database.fetchval(
        "SELECT count(*) FROM blog_generations WHERE admitted_at <= $1", closings[0]
    )
    assert limit <= before < limit + A_TURN


async def test_everybodys_door(world: World, start: Start) -> None:
    async with start(max_pending_total=4):
        for number in range(4):
            await world.ask(a_request(store=f"store-{number}"))
        await eventually(partial(_closed, world, {"*"}), every=0.2)
        await offer(world, slots=4)
        await eventually(partial(_all_open, world, {"*"}), every=0.2)


async def test_a_successor_opens_what_a_predecessor_closed(world: World, start: Start) -> None:
    async with start("first", max_pending_per_store=2):
        for _ in range(2):
            await world.ask(a_request(store="full"))
        await eventually(partial(_closed, world, {"full"}), every=0.2)
    await world.database.execute(
        "UPDATE blog_generations SET status = 'CANCELLED'"
    )  # while nobody leads
    async with start("second", max_pending_per_store=2):
        await eventually(partial(_all_open, world, {"full"}), every=0.2)


async def _closed_stores_reported(world: World, count: int) -> bool:
    reports = [
        report for _, report in await world.read_all(WORKERS) if isinstance(report, SchedulerReport)
    ]
    return any(report.closed_stores == count for report in reports)
