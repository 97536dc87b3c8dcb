"""Webhooks from the end of a job to a store's own server, on the real broker and database."""

import asyncio
import base64
import hmac
import random
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.system.home import free_port
from services.ingest.auth.key_ring import Caller
from services.ingest.jobs.repository import IngestStore
from services.ingest.webhooks import sender
from services.ingest.webhooks.repository import Delivery, WebhookStore
from services.ingest.webhooks.resolver import Resolver
from services.ingest.webhooks.rules import Outcome, Verdict
from services.ingest.webhooks.sender import Sender
from shared.domain.api_keys import (
    create_key,
    create_operator_key,
    rotate_webhook_secret,
    get_or_create_webhook_secret,
)
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent
from shared.http import server
from shared.kafka.topics import RESULTS
from shared.runtime.lifecycle import background_tasks
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, database_unavailable, make_request, running_service
from tests.support.eventually import eventually
from tests.support.ingest import GOOD, PROBLEM, Ingest, insert, start_ingest

LOG = "/api/webhook-deliveries"


@dataclass(slots=True)
class Receiver:
    """A store's server: answers in turn with these, and 204 when none is left."""

    url: str
    answers: list[Response] = field(default_factory=list)
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    hanging: int = 0
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: Request) -> Response:
        self.heard.append((request.url.path, dict(request.headers), await request.body()))
        if request.url.path == "/hang":
            self.hanging += 1
            await self.let_go.wait()
        return self.answers.pop(0) if self.answers else Response(status_code=204)

    def has_heard(self, count: int) -> bool:
        return len(self.heard) >= count


@asynccontextmanager
async def a_receiver(*answers: Response) -> AsyncIterator[Receiver]:
    port = free_port()
    receiver = Receiver(f"http://127.0.0.1:{port}/hook", list(answers))
    app = Starlette(routes=[Route("/{path:path}", receiver.take, methods=["GET", "POST"])])
    async with running_service(partial(server.serve_http, app, server.open_listener("127.0.0.1", port))):
        try:
            yield receiver
        finally:
            receiver.let_go.set()


async def ends(backend: Backend, request: BlogRequested, *, times: int = 1) -> None:
    await insert(backend, request, "DONE")
    event = JobEvent(
        job=request.id,
        store=request.store,
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=0,
        at=datetime.now(UTC),
        created_at=request.created_at,
    )
    for _ in range(times):
        await backend.publish(RESULTS, request.store, event)


async def log_of(ingest: Ingest, job: UUID, key: str | None = None) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await ingest.get(f"{LOG}?job={job}", key=key)).json()["items"]
    return items


async def has_state(ingest: Ingest, job: UUID, state: str) -> dict[str, Any] | None:
    return next((item for item in await log_of(ingest, job) if item["state"] == state), None)


async def tried(ingest: Ingest, job: UUID, times: int, key: str | None = None) -> bool:
    """So many attempts were made; the next one's pause is over at once."""
    items = await log_of(ingest, job, key)
    if not items or len(items[0]["log"]) < times:
        return False
    await ingest.backend.database.execute(
        "UPDATE webhook_deliveries SET next_at = now() WHERE state = 'WAITING'"
    )
    return True


def is_signed(secret: str, headers: dict[str, str], content: bytes) -> bool:
    """As a receiver checks it."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    right = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, "sha256")
    return f"v1,{base64.b64encode(right).decode()}" in headers["webhook-signature"].split(" ")


async def test_a_receiver_that_fails_twice_gets_it_once_in_the_end(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """The end is heard of twice, by two processes: one delivery, with one id, signed, and no redirect followed."""
    failing = (
        Response(status_code=500),
        Response(status_code=302, headers={"Location": "/elsewhere"}),
    )
    allowing = partial(start_ingest, backend, database, tmp_path, webhook_allow_loopback=True)
    async with a_receiver(*failing) as receiver, allowing() as ingest, allowing() as second:
        assert (await ingest.post(GOOD | {"webhookUrl": receiver.url})).status_code == 201
        request = make_request(store="shop", webhook_url=receiver.url)
        await ends(backend, request, times=2)
        for times in (1, 2):
            await eventually(partial(tried, second, request.id, times))
        delivery = await eventually(partial(has_state, ingest, request.id, "DELIVERED"))
        assert delivery is not None
        assert [entry["status"] for entry in delivery["log"]] == [500, 302, 204]
        assert (delivery["attempts"], delivery["type"], delivery["nextAt"]) == (3, "job.done", None)
        print(
            orjson.dumps(delivery, option=orjson.OPT_INDENT_2).decode()
        )  # what a store sees: docs/runbook.md shows it
        secret = await get_or_create_webhook_secret(backend.database, "shop")
        assert {(path, headers["webhook-id"], body) for path, headers, body in receiver.heard} == {
            ("/hook", delivery["webhookId"], receiver.heard[0][2])
        }
        assert len(receiver.heard) == 3
        assert all(is_signed(secret, headers, body) for _, headers, body in receiver.heard)
        said = httpx.Response(200, content=receiver.heard[0][2]).json()
        assert (said["type"], said["data"]["id"], said["data"]["status"]) == (
            "job.done",
            str(request.id),
            "DONE",
        )
        rotated = await rotate_webhook_secret(backend.database, "shop", overlap_s=60)
        stranger = await create_key(backend.database, "stranger")
        assert await log_of(ingest, request.id, key=stranger) == []
        for key, status in ((stranger, 404), (ingest.key, 202)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = await second.http.post(f"{LOG}/{delivery['id']}/replay", headers=headers)
            assert answer.status_code == status
        await eventually(lambda: receiver.has_heard(4))
        _, headers, body = receiver.heard[3]
        assert headers["webhook-id"] == delivery["webhookId"]
        assert is_signed(secret, headers, body)
        assert is_signed(rotated, headers, body), "both sign for a while"
        operator = {"Authorization": f"Bearer {await create_operator_key(backend.database, 'ada')}"}
        for delivery_id, status in ((delivery["id"], 202), (UUID(int=0), 404)):
            answer = await ingest.http.post(f"{LOG}/{delivery_id}/replay", headers=operator)
            assert answer.status_code == status
        await eventually(lambda: receiver.has_heard(5))


async def test_what_ended_while_nobody_looked_is_told_later(
    backend: Backend, database: str, postgres: str, tmp_path: Path
) -> None:
    """With no ingest running, with PostgreSQL away, and for a cancellation whose event got lost."""
    async with a_receiver() as receiver:
        ended, cancelled, later = (
            make_request(store="shop", webhook_url=receiver.url) for _ in range(3)
        )
        await ends(backend, ended)
        await insert(backend, cancelled)
        async with await open_pool(
            PostgresSettings.model_validate({"database_url": database}), name="test"
        ) as pool:
            assert await IngestStore(pool).cancel(
                cancelled.id, Caller(store="shop", name="shop", key=b"hash")
            )
        async with start_ingest(backend, database, tmp_path, webhook_allow_loopback=True) as ingest:
            for request in (ended, cancelled):
                await eventually(partial(has_state, ingest, request.id, "DELIVERED"))
            await insert(backend, later, "DONE")
            async with database_unavailable(postgres, database, "ingest-test"):
                await backend.publish(RESULTS, "shop", _ended(later))
            await eventually(partial(has_state, ingest, later.id, "DELIVERED"))
            types = sorted(
                httpx.Response(200, content=body).json()["type"] for _, _, body in receiver.heard
            )
            assert types == ["job.cancelled", "job.done", "job.done"]
            listed = await ingest.get(f"{LOG}?limit=2")
            assert (len(listed.json()["items"]), "cursor=" in listed.headers["link"]) == (2, True)
            rest = await ingest.get(listed.headers["link"].partition(">")[0].lstrip("<"))
            assert len(rest.json()["items"]) == 1


def _ended(request: BlogRequested) -> JobEvent:
    return JobEvent(
        job=request.id,
        store="shop",
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=0,
        at=datetime.now(UTC),
        created_at=request.created_at,
    )


async def test_nothing_is_sent_to_this_machine_unless_it_is_allowed(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with a_receiver() as receiver, start_ingest(backend, database, tmp_path) as ingest:
        for url in (receiver.url, "http://shop.example", "https://u:p@shop.example/"):
            answer = await ingest.post(GOOD | {"webhookUrl": url})
            assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
            assert answer.json()["errors"][0]["field"] == "webhookUrl"
        sly = receiver.url.replace("http://127.0.0.1", "https://localhost")
        unknown = "https://nobody.invalid/"
        requests = [
            make_request(store="shop", webhook_url=url) for url in (receiver.url, sly, unknown)
        ]
        for request in requests:
            await ends(backend, request)
            await eventually(partial(tried, ingest, request.id, 1))
        reasons = [(await log_of(ingest, request.id))[0]["log"][0]["error"] for request in requests]
        assert reasons[0] == "the URL must be https"
        assert reasons[2] == reasons[1], "no more than that it has none"
        states = [(await log_of(ingest, request.id))[0]["state"] for request in requests]
        assert states == ["FAILED", "WAITING", "WAITING"], "a name may lead elsewhere another time"
        assert reasons[1] == "the URL does not lead to a public address", (
            "a store cannot ask for our network's names"
        )
        assert receiver.heard == []


async def due(
    backend: Backend, store: str, url: str, *, count: int = 1, hours_ago: int = 0
) -> UUID:
    """So many deliveries of a job that has ended: its id."""
    job = make_request(store=store)
    await insert(backend, job, "DONE")
    await backend.database.execute(
        "INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload, next_at)"
        " SELECT gen_random_uuid(), $1, $2, $3, $4, now() - make_interval(hours => $6) FROM generate_series(1, $5)",
        job.id,
        store,
        url,
        '{"type":"job.done"}',
        count,
        hours_ago,
    )
    return job.id


async def test_a_server_that_hangs_and_a_long_backlog_keep_no_other_store_waiting(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with (
        a_receiver() as receiver,
        start_ingest(backend, database, tmp_path, webhook_allow_loopback=True) as ingest,
    ):
        await due(backend, "hog", receiver.url.replace("/hook", "/hang"), count=1_100, hours_ago=1)
        for _ in range(
            4
        ):  # each is found in a turn of its own, in which more of the hog's could be begun
            job = await due(backend, "shop", receiver.url)
            await eventually(partial(has_state, ingest, job, "DELIVERED"), timeout=10)
        await eventually(lambda: receiver.hanging > 0)
        assert receiver.hanging <= 4


async def test_names_that_are_looked_up_slowly_keep_no_other_store_waiting(
    backend: Backend, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are given up, and go on in their threads: of one store no more of them are begun meanwhile."""
    at_last, looked_up, really = threading.Event(), Counter[str](), socket.getaddrinfo

    def looking_up(host: Any, *about: Any, **more: Any) -> Any:
        if str(host).endswith(".example"):
            looked_up[host] += 1
            at_last.wait()
        return really(host, *about, **more)

    monkeypatch.setattr(socket, "getaddrinfo", looking_up)
    try:
        async with (
            a_receiver() as receiver,
            start_ingest(backend, database, tmp_path, webhook_allow_loopback=True) as ingest,
        ):
            slow = [
                await due(backend, f"slow-{number}", f"https://{number}.example/", count=6)
                for number in range(4)
            ]
            await eventually(
                lambda: looked_up.total() >= 6
            )  # as many as would block the loop's own threads
            job = await due(backend, "shop", receiver.url.replace("127.0.0.1", "localhost"))
            await eventually(partial(has_state, ingest, job, "DELIVERED"), timeout=10)
            for number, one in enumerate(slow):
                key = await create_key(backend.database, f"slow-{number}")
                await eventually(partial(tried, ingest, one, 1, key))
            assert max(looked_up.values()) <= 4
    finally:
        at_last.set()


class Taking(WebhookStore):
    """The real one; notes which stores' deliveries are under way after every turn."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self.under_way: list[Counter[str]] = []
        self.sender: Sender | None = None

    async def take(
        self, most: int, *, for_s: float, of_one_store: int, sending: Sequence[str]
    ) -> list[Delivery]:
        assert self.sender is not None
        before = list(self.sender._sending.values())
        taken = await super().take(most, for_s=for_s, of_one_store=of_one_store, sending=sending)
        self.under_way.append(Counter([*before, *(delivery.store for delivery in taken)]))
        return taken


async def test_servers_that_hang_leave_room_for_the_others_once_that_is_known(
    backend: Backend, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: five would fill all places."""
    monkeypatch.setattr(sender, "_DEADLINE_S", 0.5)
    monkeypatch.setattr(sender, "_SLOW_S", 0.25)
    hogs = [f"hog-{number}" for number in range(25)]
    settings = PostgresSettings.model_validate({"database_url": database})
    async with a_receiver() as receiver, await open_pool(settings, name="test") as pool:
        for hog in hogs:
            await due(backend, hog, receiver.url.replace("/hook", "/hang"), count=40, hours_ago=1)
        store = Taking(pool)
        store.sender = Sender(
            store=store,
            resolve=Resolver().addresses,
            noted=asyncio.Event(),
            loopback=True,
            rng=random.Random(1),
        )
        async with background_tasks(asyncio.Event(), sender=store.sender.run()):
            await eventually(partial(all_tried, backend, len(hogs)))
            await eventually(
                lambda: leaves_room(store.under_way[-1]), what="the end of what was begun before"
            )
            turns = len(store.under_way)
            await eventually(lambda: len(store.under_way) > turns + 40)
    assert all(map(leaves_room, store.under_way[turns:]))


async def test_an_address_that_takes_no_connection_leads_to_the_next(
    backend: Backend, database: str
) -> None:
    """Nobody listens at the first."""

    async def two_addresses(store: str, host: str, port: int) -> Sequence[str]:
        return "127.0.0.2", "127.0.0.1"

    settings = PostgresSettings.model_validate({"database_url": database})
    async with a_receiver() as receiver, await open_pool(settings, name="test") as pool:
        await due(backend, "shop", receiver.url)
        sending = Sender(
            store=WebhookStore(pool),
            resolve=two_addresses,
            noted=asyncio.Event(),
            loopback=True,
            rng=random.Random(1),
        )
        async with background_tasks(asyncio.Event(), sender=sending.run()):
            ended = "SELECT state, attempts FROM webhook_deliveries WHERE state <> 'WAITING'"
            row = await eventually(partial(pool.fetchrow, ended))
        assert (tuple(row or ()), len(receiver.heard)) == (("DELIVERED", 1), 1)


def leaves_room(under_way: Counter[str]) -> bool:
    return under_way.total() <= 15 and set(under_way.values()) <= {1}


async def all_tried(backend: Backend, stores: int) -> bool:
    query = "SELECT count(DISTINCT instance_id) = $1 FROM webhook_deliveries WHERE attempts > 0"
    return bool(await backend.database.fetchval(query, stores))


async def test_an_attempt_counts_once_it_is_noted_and_whose_lease_ended_changes_nothing(
    backend: Backend, database: str
) -> None:
    await due(backend, "shop", "https://shop.example/hook")
    async with await open_pool(
        PostgresSettings.model_validate({"database_url": database}), name="test"
    ) as pool:
        store = WebhookStore(pool)
        take = partial(store.take, 5, for_s=60, of_one_store=4, sending=())
        (lost,) = await take()
        assert await take() == [], "while the lease lasts"
        await pool.execute("UPDATE webhook_deliveries SET next_at = now()")
        assert await store.take(5, for_s=60, of_one_store=2, sending=("shop", "shop")) == [], (
            "two are on their way"
        )
        (taken,) = await take()
        assert (lost.attempt, taken.attempt) == (1, 1), (
            "nobody noted the first: the receiver may not be to blame"
        )
        answered = partial(
            store.finish,
            outcome=Outcome(status=204),
            verdict=Verdict(state="DELIVERED"),
            seconds=0.1,
        )
        for delivery, state in ((lost, ("WAITING", 0)), (taken, ("DELIVERED", 1))):
            await answered(delivery, at=datetime.now(UTC))
            (row,) = await pool.fetch("SELECT state, attempts FROM webhook_deliveries")
            assert tuple(row) == state
