"""Unusable records are dead-lettered; an outage of PostgreSQL or Kafka loses no request."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from sandbox.servers import kafka as kafka_server
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent
from shared.kafka import clients as shared_kafka
from shared.kafka.envelope import encode_message
from shared.kafka.topics import DEAD_LETTER, REQUESTS, RESULTS
from tests.support import servers
from tests.support.backend import (
    Backend,
    LogCapture,
    database_unavailable,
    make_request,
    open_backend,
)
from tests.support.eventually import eventually
from tests.support.scheduler import (
    StartScheduler,
    has_job_count,
    is_leader,
    publish_worker_report,
    read_tasks_at_least,
    start_scheduler,
)


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database)


async def test_requests_survive_a_postgresql_outage(
    backend: Backend,
    start: StartScheduler,
    postgres: str,
    database: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The topic is new, so there is no committed offset to return to."""
    log = LogCapture(capsys)
    requests = [make_request(store=f"store-{number % 5}") for number in range(20)]
    async with start():
        await eventually(partial(is_leader, backend, "scheduler-1"))
        await publish_worker_report(backend, slots=20)
        async with database_unavailable(postgres, database, "scheduler"):
            for request in requests:
                await backend.submit(request)
            await eventually(partial(log.has, "dependency unavailable"))
        sent = await eventually(partial(read_tasks_at_least, backend, 20), every=0.3)
    assert log.count("dependency unavailable") == log.count("dependencies available again") == 1
    assert {task.job for task in sent} == {request.id for request in requests}
    assert len(sent) == 20


async def _dead_letters(backend: Backend, count: int) -> list[tuple[str | None, object]]:
    found = await backend.read_records(DEAD_LETTER)
    return list(found) if len(found) == count else []


async def test_unreadable_record_is_dead_lettered(backend: Backend, start: StartScheduler) -> None:
    topic = shared_kafka.namespace(backend.settings).topic(REQUESTS)
    async with (
        AIOKafkaProducer(bootstrap_servers=backend.settings.kafka_bootstrap_servers) as producer,
        start(),
    ):
        headers = [("ce_type", BlogRequested.TYPE.encode())]
        await producer.send_and_wait(topic, b'{"id": 1}', key=b"store-a", headers=headers)
        await producer.send_and_wait(topic, None, key=b"store-a", headers=headers)
        await backend.submit(make_request())
        await eventually(partial(has_job_count, backend, 1))
        found = await eventually(partial(_dead_letters, backend, 2), every=0.3)
    assert found == [("store-a", b'{"id": 1}'), ("store-a", None)]


async def test_message_on_wrong_topic_is_dead_lettered(
    backend: Backend, start: StartScheduler
) -> None:
    request = make_request()
    event = JobEvent(
        job=request.id,
        store=request.store,
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=1,
        at=request.created_at,
        created_at=request.created_at,
    )
    async with start():
        await backend.publish(REQUESTS, request.store, event)
        await backend.publish(RESULTS, request.store, request)
        await eventually(partial(_dead_letters, backend, 2), every=0.3)
    assert await has_job_count(backend, 0)


async def test_unstorable_request_does_not_stop_the_others(
    backend: Backend, start: StartScheduler
) -> None:
    good = [make_request() for _ in range(5)]
    bad = [make_request(title="a\x00b"), make_request(priority=1_000_000)]
    for request in (good[0], bad[0], good[1], good[2], bad[1], good[3], good[4]):
        await backend.submit(request)
    topic = shared_kafka.namespace(backend.settings).topic(REQUESTS)
    async with (
        AIOKafkaProducer(bootstrap_servers=backend.settings.kafka_bootstrap_servers) as producer,
        start(),
    ):
        value, headers = encode_message(make_request(product={"n": 12}), source="test")
        await producer.send_and_wait(
            topic, value.replace(b'{"n":12}', b'{"n":%d}' % 2**70), b"store-a", headers=headers
        )
        await eventually(partial(has_job_count, backend, 5))
        await eventually(partial(_dead_letters, backend, 3), every=0.3)
        await publish_worker_report(backend, slots=9)
        sent = await eventually(partial(read_tasks_at_least, backend, 5), every=0.3)
    assert {task.job for task in sent} == {request.id for request in good}
    announced = {
        event.job for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    }
    assert announced == {request.id for request in good}


async def test_scheduler_resumes_after_a_kafka_outage(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills its own broker. Requests from before and after the outage are dispatched once."""
    log = LogCapture(capsys)
    spec, bootstrap = kafka_server.prepare_server(tmp_path, print)
    server = await asyncio.to_thread(servers.start_server, spec, tmp_path / "server.log")
    try:
        async with (
            open_backend(bootstrap, "away.", database) as backend,
            start_scheduler(backend, database, worker_silence_s=120),
        ):
            before = [make_request(store=f"store-{number % 3}") for number in range(6)]
            for request in before:
                await backend.submit(request)
            await eventually(partial(has_job_count, backend, 6))
            server.kill()
            await asyncio.to_thread(server.wait)
            await eventually(partial(log.has, "dependency unavailable"), timeout=90)
            server = await asyncio.to_thread(servers.start_server, spec, tmp_path / "server.log")
            await eventually(partial(log.has, "dependencies available again"), timeout=90)
            after = make_request()
            await backend.submit(after)
            await eventually(partial(has_job_count, backend, 7), timeout=90)
            await publish_worker_report(backend, slots=20)
            sent = await eventually(partial(read_tasks_at_least, backend, 7), every=0.3, timeout=90)
    finally:
        await asyncio.to_thread(servers.stop_server, spec, server)
    assert sorted(task.job for task in sent) == sorted(request.id for request in [*before, after])
