"""Answers cancel and retry: a fenced update in PostgreSQL decides, then an event is published.

The event only speeds up the scheduler, which also finds the row at its next sweep.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from aiokafka.errors import KafkaError
from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Authenticator
from services.ingest.auth.key_ring import Caller
from services.ingest.jobs.reader import JobReader, read_or_refuse
from services.ingest.jobs.repository import JobRepository, Row
from shared.domain.job import Status
from shared.domain.job_events import event_from_row
from shared.domain.messages import EventKind, JobEvent, PreviousOutcome
from shared.http.responses import JsonResponse, Problem
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Action:
    name: str
    """For the log."""
    outcome: str
    """Past participle, for refusals."""
    update: Callable[[UUID, Caller], Awaitable[Row | None]]
    event: Callable[[Row], JobEvent]


class UserActionHandlers:
    def __init__(
        self,
        *,
        authenticator: Authenticator,
        jobs: JobRepository,
        reader: JobReader,
        publisher: Publisher,
        publish_timeout_s: float,
    ) -> None:
        self._authenticator = authenticator
        self._reader = reader
        self._publisher = publisher
        self._timeout_s = publish_timeout_s
        self._cancel = _Action(
            name="cancel", outcome="cancelled", update=jobs.cancel_job, event=_cancellation_event
        )
        self._retry = _Action(
            name="retry", outcome="retried", update=jobs.retry_job, event=_retry_event
        )

    async def cancel_job(self, request: Request) -> Response:
        """Cancel a job: a waiting one never starts, a running one stops after its current call."""
        return await self._apply(request, self._cancel)

    async def retry_job(self, request: Request) -> Response:
        """Queue a failed or cancelled job again: it resumes after its last paid step."""
        return await self._apply(request, self._retry)

    async def _apply(self, request: Request, action: _Action) -> Response:
        caller = await self._authenticator.authenticate(request)
        job: UUID = request.path_params["job"]
        # 404 for another store's job; waits for the row of a fresh job.
        await self._reader.get_row(job, caller)
        changed = await read_or_refuse(action.update(job, caller))
        if changed is None:
            status = (await self._reader.get_row(job, caller))["status"]
            detail = f"a job that is {status} cannot be {action.outcome}"
            raise Problem(409, "Conflict", detail=detail)
        log.info(
            "user action applied",
            action=action.name,
            job=str(job),
            store=changed["store"],
            by=caller.name,
        )
        await self._publish(action.event(changed))
        return JsonResponse(await self._reader.get_detail(job, caller))

    async def _publish(self, event: JobEvent) -> None:
        """Publish the event; a failure is only logged, because the scheduler's sweep repairs it."""
        outgoing = OutgoingMessage(topic=RESULTS, key=event.store, message=event)
        try:
            await self._publisher.publish(outgoing, timeout=self._timeout_s)
        except (KafkaError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}"
            log.warning("job event not published", job=str(event.job), reason=reason)


def _cancellation_event(row: Row) -> JobEvent:
    """Return the ENDED event of a job that a user has cancelled."""
    return event_from_row(row, since=row["intervened_at"])


def _retry_event(row: Row) -> JobEvent:
    """Return the RETRY event of a job that a user has queued again."""
    return event_from_row(
        row, kind=EventKind.RETRY, since=row["intervened_at"], former=_previous_outcome(row)
    )


def _previous_outcome(row: Row) -> PreviousOutcome | None:
    if row["previous_finished_at"] is None:
        return None
    return PreviousOutcome(
        status=Status(row["previous_status"]),
        at=row["previous_finished_at"],
        begun=row["previous_started"],
    )
