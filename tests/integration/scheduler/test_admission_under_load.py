"""A store's clients push harder than its queue holds: all of ingest, the scheduler and the doors between them.

How much slips in behind a closed door is what is accepted while the word travels: no number that holds on every
machine. So these tests ask who knew what: a process that has heard accepts nothing more, and what it accepted before is
all that slips in.
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
from tests.support.scheduler import count_reached, is_leader, start_scheduler

LIMIT, CLIENTS, EACH = 100, 20, 25


class HeldGates(AdmissionView):
    """The real ones, but the test says when a word that has come is heard, and sees how many were."""

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings)
        self.words = 0
        self.held: list[ConsumerRecord] | None = None

    def _apply_record(self, record: ConsumerRecord) -> None:
        if self.held is not None:
            self.held.append(record)
            return
        self.words += 1
        super()._apply_record(record)

    def let_in(self) -> None:
        held, self.held = self.held or [], None
        for record in held:
            self._apply_record(record)


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> list[HeldGates]:
    """The gates of every ingest process that this test starts, in their order."""
    made: list[HeldGates] = []

    def make(settings: KafkaSettings) -> HeldGates:
        made.append(HeldGates(settings))
        return made[-1]

    monkeypatch.setattr(service, "AdmissionView", make)
    return made


async def test_what_slips_in_is_what_was_accepted_before_the_word_was_heard(
    backend: Backend, database: str, tmp_path: Path, gates: list[HeldGates]
) -> None:
    limit, behind = 5, 12
    async with (
        start_scheduler(backend, database, max_pending_per_store=limit),
        start_ingest(backend, database, tmp_path) as ingest,
        start_ingest(backend, database, tmp_path) as other,
    ):
        held = gates[0].held = []
        for count in range(1, limit + 1):
            assert (await ingest.post(GOOD)).status_code == 201
            await eventually(partial(count_reached, backend, count))
        await eventually(lambda: held, what="the word that the queue is full")
        await eventually(lambda: gates[1].closed_state("shop"))
        assert (await other.post(GOOD)).status_code == 429, "its neighbour has heard"
        for _ in range(behind):
            assert (await ingest.post(GOOD)).status_code == 201, "nobody has told this process yet"
        gates[0].let_in()
        for _ in range(behind):
            assert (await ingest.post(GOOD)).status_code == 429
        await eventually(partial(count_reached, backend, limit + behind))
        assert len(await backend.read_records(REQUESTS)) == limit + behind, (
            "and nothing more is on its way"
        )


async def push(ingest: Ingest, gates: HeldGates, answers: Counter[int]) -> None:
    """A client that wants its requests in, and does as Retry-After says."""
    accepted = 0
    while accepted < EACH:
        closed, words = gates.closed_state("shop"), gates.words
        answer = await ingest.post(GOOD)
        answers[answer.status_code] += 1
        if closed and gates.words == words:
            assert answer.status_code == 429, (
                "a process that knows that the door is closed accepts nothing"
            )
        if answer.status_code == 429:
            await asyncio.sleep(int(answer.headers["retry-after"]))
        else:
            answer.raise_for_status()
            accepted += 1


async def ask_now_and_then(ingest: Ingest, key: str, answers: Counter[int]) -> None:
    while True:
        answer = await ingest.post(GOOD, headers={"Authorization": f"Bearer {key}"})
        answers[answer.status_code] += 1
        await asyncio.sleep(0.2)


@pytest.mark.timeout(180)
async def test_twenty_clients_that_obey_retry_after_get_everything_in(
    backend: Backend, database: str, tmp_path: Path, gates: list[HeldGates]
) -> None:
    answers, neighbours = Counter[int](), Counter[int]()
    async with (
        start_scheduler(backend, database, max_pending_per_store=LIMIT),
        start_ingest(backend, database, tmp_path) as ingest,
        start_fake_worker(backend, database, slots=20, pause_s=0.2) as worker,
    ):
        await eventually(partial(is_leader, backend, "scheduler-1"))
        neighbour = await create_key(backend.database, "neighbour")
        beside = asyncio.create_task(ask_now_and_then(ingest, neighbour, neighbours))
        await asyncio.gather(*(push(ingest, gates[0], answers) for _ in range(CLIENTS)))
        wanted = CLIENTS * EACH
        await eventually(
            lambda: sum(store == "shop" for _, store, _ in worker.done) == wanted, timeout=60
        )
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)
    assert answers.keys() == {201, 429}
    assert answers[201] == wanted
    assert neighbours.keys() == {201}
