"""Admission control end to end: clients submit more requests than the store's queue holds.

The number of requests accepted while an admission state travels depends on the machine. These tests
therefore check each process: after it has applied the state, it accepts no request.
"""

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from aiokafka.structs import ConsumerRecord

from services.ingest import service
from services.ingest.submit.admission import AdmissionView
from shared.domain.api_keys import create_key
from shared.kafka.topics import REQUESTS
from shared.runtime.settings import KafkaSettings
from tests.support.backend import Backend
from tests.support.eventually import eventually
from tests.support.fake_worker import start_fake_worker
from tests.support.ingest import GOOD, Ingest, start_ingest
from tests.support.scheduler import has_job_count, is_leader, start_scheduler

LIMIT, CLIENTS, EACH = 100, 20, 25


class HeldAdmissionView(AdmissionView):
    """Applies received states only when the test allows it, and counts them."""

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings)
        self.applied = 0
        self.held: list[ConsumerRecord] | None = None

    def _apply_record(self, record: ConsumerRecord) -> None:
        if self.held is not None:
            self.held.append(record)
            return
        self.applied += 1
        super()._apply_record(record)

    def release_held(self) -> None:
        held, self.held = self.held or [], None
        for record in held:
            self._apply_record(record)


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> list[HeldAdmissionView]:
    """Collect the admission view of every ingest process of the test, in order of start."""
    made: list[HeldAdmissionView] = []

    def make(settings: KafkaSettings) -> HeldAdmissionView:
        made.append(HeldAdmissionView(settings))
        return made[-1]

    monkeypatch.setattr(service, "AdmissionView", make)
    return made


async def test_process_accepts_requests_until_it_applies_the_state(
    backend: Backend, database: str, tmp_path: Path, views: list[HeldAdmissionView]
) -> None:
    limit, behind = 5, 12
    async with (
        start_scheduler(backend, database, max_pending_per_store=limit),
        start_ingest(backend, database, tmp_path) as ingest,
        start_ingest(backend, database, tmp_path) as other,
    ):
        held = views[0].held = []
        for count in range(1, limit + 1):
            assert (await ingest.post(GOOD)).status_code == 201
            await eventually(partial(has_job_count, backend, count))
        await eventually(lambda: held, what="the admission state of the full queue")
        await eventually(lambda: views[1].closed_state("shop"))
        assert (await other.post(GOOD)).status_code == 429, (
            "the other process has applied the state"
        )
        for _ in range(behind):
            assert (await ingest.post(GOOD)).status_code == 201, (
                "this process has not applied the state yet"
            )
        views[0].release_held()
        for _ in range(behind):
            assert (await ingest.post(GOOD)).status_code == 429
        await eventually(partial(has_job_count, backend, limit + behind))
        assert len(await backend.read_records(REQUESTS)) == limit + behind, (
            "no further request is in Kafka"
        )


async def submit_all(ingest: Ingest, view: HeldAdmissionView, answers: Counter[int]) -> None:
    """Submit `EACH` requests and obey Retry-After."""
    accepted = 0
    while accepted < EACH:
        closed, applied = view.closed_state("shop"), view.applied
        answer = await ingest.post(GOOD)
        answers[answer.status_code] += 1
        if closed and view.applied == applied:
            assert answer.status_code == 429, (
                "a process that knows of the closed state accepts no request"
            )
        if answer.status_code == 429:
            await asyncio.sleep(int(answer.headers["retry-after"]))
        else:
            answer.raise_for_status()
            accepted += 1


async def submit_periodically(ingest: Ingest, key: str, answers: Counter[int]) -> None:
    while True:
        answer = await ingest.post(GOOD, headers={"Authorization": f"Bearer {key}"})
        answers[answer.status_code] += 1
        await asyncio.sleep(0.2)


@pytest.mark.timeout(180)
async def test_clients_that_obey_retry_after_get_all_requests_accepted(
    backend: Backend, database: str, tmp_path: Path, views: list[HeldAdmissionView]
) -> None:
    answers, neighbour_answers = Counter[int](), Counter[int]()
    async with (
        start_scheduler(backend, database, max_pending_per_store=LIMIT),
        start_ingest(backend, database, tmp_path) as ingest,
        start_fake_worker(backend, database, slots=20, pause_s=0.2) as worker,
    ):
        await eventually(partial(is_leader, backend, "scheduler-1"))
        neighbour = await create_key(backend.database, "neighbour")
        neighbour_task = asyncio.create_task(
            submit_periodically(ingest, neighbour, neighbour_answers)
        )
        await asyncio.gather(*(submit_all(ingest, views[0], answers) for _ in range(CLIENTS)))
        wanted = CLIENTS * EACH
        await eventually(
            lambda: sum(store == "shop" for _, store, _ in worker.done) == wanted, timeout=60
        )
        neighbour_task.cancel()
        await asyncio.gather(neighbour_task, return_exceptions=True)
    assert answers.keys() == {201, 429}
    assert answers[201] == wanted
    assert neighbour_answers.keys() == {201}
