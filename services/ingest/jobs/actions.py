"""Cancel and retry: a fenced update in PostgreSQL, which decides; then an event, which only hurries the scheduler."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

from aiokafka.errors import KafkaError
from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Callers
from services.ingest.auth.key_ring import Caller
from services.ingest.jobs import view
from services.ingest.jobs.reader import JobReader, reading
from services.ingest.jobs.repository import IngestStore, Row
from shared.domain.messages import EventKind
from shared.http.responses import JsonResponse, Problem
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger

log = get_logger(__name__)

Change: TypeAlias = Callable[[UUID, Caller], Awaitable[Row | None]]


class Interventions:
    """The handlers. Everything that they need belongs to the caller."""

    def __init__(
        self,
        *,
        callers: Callers,
        store: IngestStore,
        reader: JobReader,
        publisher: Publisher,
        publish_timeout_s: float,
    ) -> None:
        self._callers = callers
        self._store = store
        self._reader = reader
        self._publisher = publisher
        self._timeout_s = publish_timeout_s

    async def cancel(self, request: Request) -> Response:
        """POST …/cancel: waiting jobs do not begin, a running one stops after the call that it is paying for."""
        return await self._change(request, self._store.cancel, EventKind.ENDED, "cancelled")

    async def retry(self, request: Request) -> Response:
        """POST …/retry: a job that failed or was cancelled goes on after its last paid step, with all its tries."""
        return await self._change(request, self._store.retry, EventKind.RETRY, "asked for again")

    async def _change(
        self, request: Request, change: Change, kind: EventKind, what: str
    ) -> Response:
        caller = await self._callers.anyone(request)
        job: UUID = request.path_params["job"]
        await self._reader.row(job, caller)  # of this store, and there: a fresh one is waited for
        changed = await reading(change(job, caller))
        if changed is None:
            status = (await self._reader.row(job, caller))["status"]
            raise Problem(409, "Conflict", detail=f"a job that is {status} cannot be {what}")
        log.info(f"a job was {what}", job=str(job), store=changed["instance_id"], by=caller.name)
        await self._tell(changed, kind)
        return JsonResponse(await self._reader.whole(job, caller))

    async def _tell(self, row: Row, kind: EventKind) -> None:
        """Should it get lost, the scheduler finds the row at its next sweep."""
        outgoing = OutgoingMessage(
            topic=RESULTS, key=row["instance_id"], message=view.event(dict(row), kind)
        )
        try:
            await self._publisher.publish(outgoing, timeout=self._timeout_s)
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "a change was not announced",
                job=str(row["id"]),
                reason=f"{type(error).__name__}: {error}",
            )
