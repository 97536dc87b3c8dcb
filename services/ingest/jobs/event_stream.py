"""Streams a job's events to clients as server-sent events, from its current state to its end.

`event: job` carries the job as GET returns it, first and last; `event: progress` carries the events
in between. Kafka only signals changes. The stream also reads the row after each period of silence,
so it ends even when an event is lost.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from services.ingest.auth.authenticator import Authenticator
from services.ingest.auth.key_ring import Caller
from services.ingest.http.concurrency_limit import ConcurrencyLimit
from services.ingest.jobs.reader import JobReader
from services.ingest.jobs.subscriptions import EventQueue, ResultSubscriptions
from services.ingest.settings import IngestSettings
from shared.domain.job import ENDED
from shared.domain.messages import EventKind, JobEvent
from shared.domain.stores import ALL_STORES
from shared.http.responses import JsonResponse, Problem

_RETRY_MS = 2_000
_LAST_EVENT_ID = "end"
"""The id of a stream's last event; a client that sends it back has received everything."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class JobEventStream:
    def __init__(
        self,
        *,
        settings: IngestSettings,
        authenticator: Authenticator,
        reader: JobReader,
        subscriptions: ResultSubscriptions,
        draining: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._reader = reader
        self._subscriptions = subscriptions
        self._draining = draining
        self._limit = ConcurrencyLimit(
            "streams",
            total=settings.max_streams,
            per_store=settings.max_streams_per_store,
            retry_after_s=5,
        )

    async def issue_ticket(self, request: Request) -> Response:
        """Answer with a ticket; a browser adds it to the URL to follow this job for a while."""
        job: UUID = request.path_params["job"]
        await self._reader.get_row(job, await self._authenticator.authenticate(request))
        ticket, expires_at = await self._authenticator.issue_ticket(request, job)
        url = f"/api/blog-generation/{job}/events?ticket={ticket}"
        return JsonResponse(
            {"ticket": ticket, "url": url, "expiresAt": datetime.fromtimestamp(expires_at, UTC)},
            201,
            headers={"Cache-Control": "no-store"},
        )

    async def stream_events(self, request: Request) -> Response:
        """Stream a job's events, with a key or a ticket. HEAD starts no stream."""
        job: UUID = request.path_params["job"]
        ticket = request.query_params.get("ticket")
        caller = await (
            self._authenticator.authenticate_ticket(ticket, job)
            if ticket
            else self._authenticator.authenticate(request)
        )
        if self._draining.is_set():
            raise Problem(
                503, "Service Unavailable", detail="stopping", headers={"Retry-After": "5"}
            )
        row = await self._reader.get_row(job, caller)
        # Any page may use a ticket. A key is never sent by a browser, so it needs no CORS header.
        origin = {"Access-Control-Allow-Origin": "*"} if ticket else {}
        if request.headers.get("last-event-id") == _LAST_EVENT_ID and row["status"] in ENDED:
            # 204 stops an EventSource, which would reconnect forever otherwise.
            return Response(status_code=204, headers=origin)
        headers = _HEADERS | origin
        if request.method == "HEAD":
            return Response(media_type=_LimitedStream.media_type, headers=headers)
        return _LimitedStream(
            self._generate(job, caller),
            headers=headers,
            hold=self._limit.acquire_slot(caller.store or ALL_STORES),
        )

    async def _generate(self, job: UUID, caller: Caller) -> AsyncIterator[bytes]:
        yield f"retry: {_RETRY_MS}\n\n".encode()
        # Subscribes before the first read, so that no event in between is missed.
        with self._subscriptions.subscribe(job) as queue:
            detail = await self._read_detail(job, caller)
            if detail is None:
                return  # the client reconnects
            yield _job_event(detail)
            sent = set[str]()
            while detail["status"] not in ENDED:
                event = await self._next_event(queue)
                if not self._authenticator.is_valid(caller):
                    return  # the key was revoked
                if isinstance(event, JobEvent):
                    if event.event_id() not in sent and event.kind is not EventKind.ENDED:
                        sent.add(event.event_id())
                        yield _event("progress", _progress(event), event.event_id())
                    if event.kind is not EventKind.ENDED:
                        continue
                elif self._draining.is_set():
                    return  # the client reconnects to another process
                else:
                    yield b": still here\n\n"
                detail = await self._read_detail(job, caller) or detail
                if detail["status"] in ENDED:
                    yield _job_event(detail)

    async def _next_event(self, queue: EventQueue) -> JobEvent | None:
        """Return the next event; `None` after a period of silence or when the process stops."""
        try:
            async with asyncio.timeout(self._settings.stream_look_s):
                return await queue.get()
        except TimeoutError:
            return None

    async def _read_detail(self, job: UUID, caller: Caller) -> dict[str, Any] | None:
        """Return the job as GET shows it; `None` while PostgreSQL is unavailable."""
        try:
            return await self._reader.get_detail(job, caller)
        except Problem:
            return None


class _LimitedStream(StreamingResponse):
    """Counts as a stream from before its first byte, when it can still be refused, to its end."""

    media_type = "text/event-stream"

    def __init__(
        self,
        content: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str],
        hold: AbstractContextManager[None],
    ) -> None:
        super().__init__(content, headers=headers)
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hold:
            await super().__call__(scope, receive, send)


def _job_event(detail: dict[str, Any]) -> bytes:
    return _event("job", detail, _LAST_EVENT_ID if detail["status"] in ENDED else None)


def _progress(event: JobEvent) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "status": event.status,
        "at": event.at,
        "step": event.step,
        "error": event.error,
        "notBefore": event.not_before,
    }


def _event(name: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    """Encode one event. JSON escapes line breaks, so `data` stays one line."""
    identity = f"id: {event_id}\n".encode() if event_id else b""
    payload = orjson.dumps(data, option=orjson.OPT_UTC_Z)
    return identity + b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n"
