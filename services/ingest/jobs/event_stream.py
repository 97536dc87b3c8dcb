"""GET /api/blog-generation/{id}/events: a job's progress as server-sent events, from its state now to its end.

`event: job` carries the job as GET shows it, first and last; `event: progress` what happens in between. Kafka only says
that something has happened: now and then the row is looked at anyway, so a stream ends even when an event got lost.
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

from services.ingest.auth.authenticator import Callers
from services.ingest.auth.key_ring import Caller
from services.ingest.http.concurrency_limit import Slots
from services.ingest.jobs.reader import JobReader
from services.ingest.jobs.subscriptions import Heard, Results
from services.ingest.settings import IngestSettings
from shared.domain.job import ENDED
from shared.domain.messages import EventKind, JobEvent
from shared.http.responses import JsonResponse, Problem
from shared.runtime.postgres import ALL_STORES

_RETRY_MS = 2_000
_END = "end"
"""The id of a stream's last event: who comes back with it has heard all."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Progress:
    def __init__(
        self,
        *,
        settings: IngestSettings,
        callers: Callers,
        reader: JobReader,
        results: Results,
        draining: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._callers = callers
        self._reader = reader
        self._results = results
        self._draining = draining
        self._slots = Slots(
            "streams",
            of_all=settings.max_streams,
            of_one=settings.max_streams_per_store,
            retry_after_s=5,
        )

    async def ticket(self, request: Request) -> Response:
        """POST …/events-ticket: what a browser puts into the query to follow this one job, for a short while."""
        job: UUID = request.path_params["job"]
        await self._reader.row(job, await self._callers.anyone(request))
        ticket, expires_at = await self._callers.ticket(request, job)
        url = f"/api/blog-generation/{job}/events?ticket={ticket}"
        return JsonResponse(
            {"ticket": ticket, "url": url, "expiresAt": datetime.fromtimestamp(expires_at, UTC)},
            201,
            headers={"Cache-Control": "no-store"},
        )

    async def events(self, request: Request) -> Response:
        """GET …/events, with a key or a ticket; HEAD begins no stream."""
        job: UUID = request.path_params["job"]
        ticket = request.query_params.get("ticket")
        caller = await (
            self._callers.holder(ticket, job) if ticket else self._callers.anyone(request)
        )
        if self._draining.is_set():
            raise Problem(
                503, "Service Unavailable", detail="stopping", headers={"Retry-After": "5"}
            )
        row = await self._reader.row(job, caller)
        # A ticket is all that is needed, so any page may follow with one; with a key no browser comes.
        origin = {"Access-Control-Allow-Origin": "*"} if ticket else {}
        if request.headers.get("last-event-id") == _END and row["status"] in ENDED:
            return Response(
                status_code=204, headers=origin
            )  # an EventSource would come back for ever
        headers = _HEADERS | origin
        if request.method == "HEAD":
            return Response(media_type=_Stream.media_type, headers=headers)
        return _Stream(
            self._stream(job, caller),
            headers=headers,
            slot=self._slots.held(caller.store or ALL_STORES),
        )

    async def _stream(self, job: UUID, caller: Caller) -> AsyncIterator[bytes]:
        yield f"retry: {_RETRY_MS}\n\n".encode()
        with self._results.of(
            job
        ) as heard:  # before the state is read: what happens meanwhile is heard
            shown = await self._state(job, caller)
            if shown is None:
                return  # the client comes back
            yield _job(shown)
            said = set[str]()
            while shown["status"] not in ENDED:
                event = await self._next(heard)
                if not self._callers.is_valid(caller):
                    return  # the key was revoked meanwhile
                if isinstance(event, JobEvent):
                    if event.event_id() not in said and event.kind is not EventKind.ENDED:
                        said.add(event.event_id())
                        yield _event("progress", _progress(event), event.event_id())
                    if event.kind is not EventKind.ENDED:
                        continue
                elif self._draining.is_set():
                    return  # the client comes back, to another process
                else:
                    yield b": still here\n\n"
                shown = await self._state(job, caller) or shown
                if shown["status"] in ENDED:
                    yield _job(shown)

    async def _next(self, heard: Heard) -> JobEvent | None:
        try:
            async with asyncio.timeout(self._settings.stream_look_s):
                return await heard.get()
        except TimeoutError:
            return None

    async def _state(self, job: UUID, caller: Caller) -> dict[str, Any] | None:
        try:
            return await self._reader.whole(job, caller)
        except Problem:
            return None  # PostgreSQL is away


class _Stream(StreamingResponse):
    """Holds its slot from before its first byte, which a refusal needs, until the client is gone."""

    media_type = "text/event-stream"

    def __init__(
        self,
        content: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str],
        slot: AbstractContextManager[None],
    ) -> None:
        super().__init__(content, headers=headers)
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot:
            await super().__call__(scope, receive, send)


def _job(shown: dict[str, Any]) -> bytes:
    return _event("job", shown, _END if shown["status"] in ENDED else None)


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
    """JSON has no line breaks of its own, so the data is one line."""
    identity = f"id: {event_id}\n".encode() if event_id else b""
    return (
        identity
        + b"event: "
        + name.encode()
        + b"\ndata: "
        + orjson.dumps(data, option=orjson.OPT_UTC_Z)
        + b"\n\n"
    )
