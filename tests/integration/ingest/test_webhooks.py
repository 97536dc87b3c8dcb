"""Webhooks from the end of a job to a store's server."""

import asyncio
import random
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
import pytest
from starlette.responses import Response

from services.ingest.auth.key_ring import Caller
from services.ingest.jobs.repository import JobRepository
from services.ingest.webhooks import sender
from services.ingest.webhooks.repository import LeasedDelivery, WebhookRepository
from services.ingest.webhooks.resolver import HostResolver
from services.ingest.webhooks.rules import AttemptOutcome, NextState
from services.ingest.webhooks.sender import DeliverySender
from shared.domain.api_keys import (
    create_key,
    create_operator_key,
    get_or_create_webhook_secret,
    rotate_webhook_secret,
)
from shared.domain.job import Status
from shared.domain.messages import EventKind
from shared.runtime.lifecycle import background_tasks
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, database_unavailable, make_request
from tests.support.eventually import eventually
from tests.support.ingest import (
    GOOD,
    PROBLEM,
    Ingest,
    bearer,
    insert,
    publish_job_event,
    start_ingest,
)
from tests.support.webhook_receiver import (
    DELIVERIES,
    complete_job,
    find_delivery,
    is_signed,
    list_deliveries,
    start_webhook_receiver,
)


async def was_attempted(ingest: Ingest, job: UUID, times: int, key: str | None = None) -> bool:
    """Return whether so many attempts were made; if so, make the next one due now."""
    deliveries = await list_deliveries(ingest, job, key)
    if not deliveries or len(deliveries[0]["log"]) < times:
        return False
    await ingest.backend.database.execute(
        "UPDATE webhook_deliveries SET next_at = now() WHERE state = 'WAITING'"
    )
    return True


async def test_failed_delivery_is_retried_and_replayed(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """Two events of one end in two processes make one delivery; no redirect is followed."""
    failing = (
        Response(status_code=500),
        Response(status_code=302, headers={"Location": "/elsewhere"}),
    )
    allowing = partial(start_ingest, backend, database, tmp_path, webhook_allow_loopback=True)
    async with (
        start_webhook_receiver(*failing) as receiver,
        allowing() as ingest,
        allowing() as second,
    ):
        assert (await ingest.post(GOOD | {"webhookUrl": receiver.url})).status_code == 201
        request = make_request(store="shop", webhook_url=receiver.url)
        await complete_job(backend, request, times=2)
        for times in (1, 2):
            await eventually(partial(was_attempted, second, request.id, times))
        delivery = await eventually(partial(find_delivery, ingest, request.id, "DELIVERED"))
        assert delivery is not None
        assert [entry["status"] for entry in delivery["log"]] == [500, 302, 204]
        assert (delivery["attempts"], delivery["type"], delivery["nextAt"]) == (3, "job.done", None)
        # docs/runbook.md shows this output.
        print(orjson.dumps(delivery, option=orjson.OPT_INDENT_2).decode())
        secret = await get_or_create_webhook_secret(backend.database, "shop")
        assert {
            (path, headers["webhook-id"], body) for path, headers, body in receiver.received
        } == {("/hook", delivery["webhookId"], receiver.received[0][2])}
        assert len(receiver.received) == 3
        assert all(is_signed(secret, headers, body) for _, headers, body in receiver.received)
        content = httpx.Response(200, content=receiver.received[0][2]).json()
        assert (content["type"], content["data"]["id"], content["data"]["status"]) == (
            "job.done",
            str(request.id),
            "DONE",
        )
        rotated = await rotate_webhook_secret(backend.database, "shop", overlap_s=60)
        other_store_key = await create_key(backend.database, "other-store")
        assert await list_deliveries(ingest, request.id, key=other_store_key) == []
        for key, status in ((other_store_key, 404), (ingest.key, 202)):
            answer = await second.http.post(
                f"{DELIVERIES}/{delivery['id']}/replay", headers=bearer(key)
            )
            assert answer.status_code == status
        await eventually(lambda: receiver.has_received(4))
        _, headers, body = receiver.received[3]
        assert headers["webhook-id"] == delivery["webhookId"]
        assert is_signed(secret, headers, body)
        assert is_signed(rotated, headers, body), "both secrets sign during the overlap"
        operator = bearer(await create_operator_key(backend.database, "ada"))
        for delivery_id, status in ((delivery["id"], 202), (UUID(int=0), 404)):
            answer = await ingest.http.post(f"{DELIVERIES}/{delivery_id}/replay", headers=operator)
            assert answer.status_code == status
        await eventually(lambda: receiver.has_received(5))


async def test_ends_during_an_outage_are_delivered_later(
    backend: Backend, database: str, postgres: str, tmp_path: Path
) -> None:
    """Covers no running ingest, no PostgreSQL, and a cancellation with a lost event."""
    async with start_webhook_receiver() as receiver:
        ended, cancelled, later = (
            make_request(store="shop", webhook_url=receiver.url) for _ in range(3)
        )
        await complete_job(backend, ended)
        await insert(backend, cancelled)
        async with await open_pool(
            PostgresSettings.model_validate({"database_url": database}), name="test"
        ) as pool:
            assert await JobRepository(pool).cancel_job(
                cancelled.id, Caller(store="shop", name="shop", key=b"hash")
            )
        async with start_ingest(backend, database, tmp_path, webhook_allow_loopback=True) as ingest:
            for request in (ended, cancelled):
                await eventually(partial(find_delivery, ingest, request.id, "DELIVERED"))
            await insert(backend, later, "DONE")
            async with database_unavailable(postgres, database, "ingest-test"):
                await publish_job_event(backend, later, EventKind.ENDED, Status.DONE, attempt=0)
            await eventually(partial(find_delivery, ingest, later.id, "DELIVERED"))
            types = sorted(
                httpx.Response(200, content=body).json()["type"] for _, _, body in receiver.received
            )
            assert types == ["job.cancelled", "job.done", "job.done"]
            listed = await ingest.get(f"{DELIVERIES}?limit=2")
            assert (len(listed.json()["items"]), "cursor=" in listed.headers["link"]) == (2, True)
            second_page = await ingest.get(listed.headers["link"].partition(">")[0].lstrip("<"))
            assert len(second_page.json()["items"]) == 1


async def test_nothing_is_sent_to_this_machine_by_default(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with (
        start_webhook_receiver() as receiver,
        start_ingest(backend, database, tmp_path) as ingest,
    ):
        for url in (receiver.url, "http://shop.example", "https://u:p@shop.example/"):
            answer = await ingest.post(GOOD | {"webhookUrl": url})
            assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
            assert answer.json()["errors"][0]["field"] == "webhookUrl"
        by_name = receiver.url.replace("http://127.0.0.1", "https://localhost")
        unknown = "https://nobody.invalid/"
        requests = [
            make_request(store="shop", webhook_url=url) for url in (receiver.url, by_name, unknown)
        ]
        for request in requests:
            await complete_job(backend, request)
            await eventually(partial(was_attempted, ingest, request.id, 1))
        reasons = [
            (await list_deliveries(ingest, request.id))[0]["log"][0]["error"]
            for request in requests
        ]
        assert reasons[0] == "the URL must be https"
        assert reasons[2] == reasons[1], "an unknown name gets the same reason"
        states = [(await list_deliveries(ingest, request.id))[0]["state"] for request in requests]
        assert states == ["FAILED", "WAITING", "WAITING"], "a name may have other addresses later"
        assert reasons[1] == "the URL does not lead to a public address", (
            "stores cannot probe names of the internal network"
        )
        assert receiver.received == []


async def insert_due_deliveries(
    backend: Backend, store: str, url: str, *, count: int = 1, hours_ago: int = 0
) -> UUID:
    """Insert due deliveries of an ended job; return its id."""
    job = make_request(store=store)
    await insert(backend, job, "DONE")
    await backend.database.execute(
        "INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload, next_at)"
        " SELECT gen_random_uuid(), $1, $2, $3, $4, now() - make_interval(hours => $6)"
        " FROM generate_series(1, $5)",
        job.id,
        store,
        url,
        '{"type":"job.done"}',
        count,
        hours_ago,
    )
    return job.id


async def test_hanging_server_with_backlog_delays_no_other_store(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with (
        start_webhook_receiver() as receiver,
        start_ingest(backend, database, tmp_path, webhook_allow_loopback=True) as ingest,
    ):
        await insert_due_deliveries(
            backend, "hog", receiver.url.replace("/hook", "/hang"), count=1_100, hours_ago=1
        )
        for _ in range(4):  # each has its own round, in which the hog could start more sends
            job = await insert_due_deliveries(backend, "shop", receiver.url)
            await eventually(partial(find_delivery, ingest, job, "DELIVERED"), timeout=10)
        await eventually(lambda: receiver.hanging > 0)
        assert receiver.hanging <= 4


async def test_slow_name_lookups_delay_no_other_store(
    backend: Backend, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Abandoned lookups continue in their threads and count towards the store's limit."""
    release, lookups, getaddrinfo = threading.Event(), Counter[str](), socket.getaddrinfo

    def slow_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".example"):
            lookups[host] += 1
            release.wait()
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow_lookup)
    try:
        async with (
            start_webhook_receiver() as receiver,
            start_ingest(backend, database, tmp_path, webhook_allow_loopback=True) as ingest,
        ):
            slow = [
                await insert_due_deliveries(
                    backend, f"slow-{number}", f"https://{number}.example/", count=6
                )
                for number in range(4)
            ]
            # As many lookups as would block the event loop's own threads.
            await eventually(lambda: lookups.total() >= 6)
            job = await insert_due_deliveries(
                backend, "shop", receiver.url.replace("127.0.0.1", "localhost")
            )
            await eventually(partial(find_delivery, ingest, job, "DELIVERED"), timeout=10)
            for number, slow_job in enumerate(slow):
                key = await create_key(backend.database, f"slow-{number}")
                await eventually(partial(was_attempted, ingest, slow_job, 1, key))
            assert max(lookups.values()) <= 4
    finally:
        release.set()


class RecordingRepository(WebhookRepository):
    """Records the stores of all sends in progress after every lease."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self.sending_by_store: list[Counter[str]] = []
        self.sender: DeliverySender | None = None

    async def lease_due_deliveries(
        self, limit: int, *, lease_s: float, per_store: int, sending: Sequence[str]
    ) -> list[LeasedDelivery]:
        assert self.sender is not None
        before = list(self.sender._sending.values())
        leased = await super().lease_due_deliveries(
            limit, lease_s=lease_s, per_store=per_store, sending=sending
        )
        self.sending_by_store.append(Counter([*before, *(delivery.store for delivery in leased)]))
        return leased


async def test_known_slow_stores_leave_capacity_to_others(
    backend: Backend, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five hanging stores would fill all sends without the rule; here are 25."""
    monkeypatch.setattr(sender, "_DEADLINE_S", 0.5)
    monkeypatch.setattr(sender, "_SLOW_S", 0.25)
    hogs = [f"hog-{number}" for number in range(25)]
    settings = PostgresSettings.model_validate({"database_url": database})
    async with start_webhook_receiver() as receiver, await open_pool(settings, name="test") as pool:
        for hog in hogs:
            await insert_due_deliveries(
                backend, hog, receiver.url.replace("/hook", "/hang"), count=40, hours_ago=1
            )
        repository = RecordingRepository(pool)
        repository.sender = DeliverySender(
            repository=repository,
            resolve=HostResolver().resolve,
            deliveries_due=asyncio.Event(),
            loopback=True,
            rng=random.Random(1),
        )
        async with background_tasks(
            asyncio.Event(), sender=repository.sender.run_until_cancelled()
        ):
            await eventually(partial(all_attempted, backend, len(hogs)))
            await eventually(
                lambda: leaves_capacity(repository.sending_by_store[-1]),
                what="the end of earlier sends",
            )
            rounds = len(repository.sending_by_store)
            await eventually(lambda: len(repository.sending_by_store) > rounds + 40)
    assert all(map(leaves_capacity, repository.sending_by_store[rounds:]))


async def test_unreachable_address_falls_back_to_the_next(backend: Backend, database: str) -> None:
    """Nothing listens at the first address."""

    async def two_addresses(store: str, host: str, port: int) -> Sequence[str]:
        return "127.0.0.2", "127.0.0.1"

    settings = PostgresSettings.model_validate({"database_url": database})
    async with start_webhook_receiver() as receiver, await open_pool(settings, name="test") as pool:
        await insert_due_deliveries(backend, "shop", receiver.url)
        delivery_sender = DeliverySender(
            repository=WebhookRepository(pool),
            resolve=two_addresses,
            deliveries_due=asyncio.Event(),
            loopback=True,
            rng=random.Random(1),
        )
        async with background_tasks(asyncio.Event(), sender=delivery_sender.run_until_cancelled()):
            ended = "SELECT state, attempts FROM webhook_deliveries WHERE state <> 'WAITING'"
            row = await eventually(partial(pool.fetchrow, ended))
        assert (tuple(row or ()), len(receiver.received)) == (("DELIVERED", 1), 1)


def leaves_capacity(sending_by_store: Counter[str]) -> bool:
    return sending_by_store.total() <= 15 and set(sending_by_store.values()) <= {1}


async def all_attempted(backend: Backend, stores: int) -> bool:
    query = "SELECT count(DISTINCT instance_id) = $1 FROM webhook_deliveries WHERE attempts > 0"
    return bool(await backend.database.fetchval(query, stores))


async def test_attempt_counts_once_recorded_under_a_valid_lease(
    backend: Backend, database: str
) -> None:
    await insert_due_deliveries(backend, "shop", "https://shop.example/hook")
    async with await open_pool(
        PostgresSettings.model_validate({"database_url": database}), name="test"
    ) as pool:
        repository = WebhookRepository(pool)
        lease = partial(repository.lease_due_deliveries, 5, lease_s=60, per_store=4, sending=())
        (lost,) = await lease()
        assert await lease() == [], "while the lease lasts"
        await pool.execute("UPDATE webhook_deliveries SET next_at = now()")
        assert await lease(per_store=2, sending=("shop", "shop")) == [], "two sends in progress"
        (leased,) = await lease()
        assert (lost.attempt, leased.attempt) == (1, 1), "the first attempt was not recorded"
        record_attempt = partial(
            repository.record_attempt,
            outcome=AttemptOutcome(status=204),
            next_state=NextState(state="DELIVERED"),
            seconds=0.1,
        )
        for delivery, state in ((lost, ("WAITING", 0)), (leased, ("DELIVERED", 1))):
            await record_attempt(delivery, at=datetime.now(UTC))
            (row,) = await pool.fetch("SELECT state, attempts FROM webhook_deliveries")
            assert tuple(row) == state
