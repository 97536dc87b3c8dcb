"""Admits requests: inserts their rows, announces them on blog.results and queues them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from services.scheduler import messages
from services.scheduler.activity import ActivityCounts
from services.scheduler.admission.controller import AdmissionController
from services.scheduler.dispatch import spans
from services.scheduler.dispatch.ordered_publisher import OrderedPublisher
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import UNSTORABLE_ERRORS, SchedulerRepository
from shared.domain.errors import Permanent
from shared.domain.messages import BlogRequested
from shared.kafka.publisher import OutgoingMessage

UnstorableRequests = list[tuple[BlogRequested, Permanent]]


class RequestAdmitter:
    def __init__(
        self,
        *,
        repository: SchedulerRepository,
        queue: FairQueue,
        publisher: OrderedPublisher,
        admission: AdmissionController,
        batch_size: int,
        activity: ActivityCounts,
    ) -> None:
        self._repository = repository
        self._queue = queue
        self._publisher = publisher
        self._admission = admission
        self._batch_size = batch_size
        self._activity = activity

    async def admit_requests(self, requests: Sequence[BlogRequested]) -> UnstorableRequests:
        """Insert the requests in batches and announce them.

        Announces new jobs, and repeated requests of untouched jobs: a crash may have lost their
        announcement. Returns the requests that PostgreSQL can never store; they do not stop the
        others.
        """
        refused: UnstorableRequests = []
        for start in range(0, len(requests), self._batch_size):
            batch = requests[start : start + self._batch_size]
            began = datetime.now(UTC)
            new = await self._insert_batch(batch, refused)
            refused_ids = {request.id for request, _ in refused}
            admitted = [request for request in batch if request.id not in refused_ids]
            spans.record_admission_spans(admitted, began_ns=int(began.timestamp() * 1e9))
            await self._publisher.publish_batch(await self._announcements(admitted, new, began))
            # Queued after the announcement, so no task precedes it.
            self._enqueue_jobs(admitted, new)
        return refused

    async def _insert_batch(
        self, batch: Sequence[BlogRequested], refused: UnstorableRequests
    ) -> set[UUID]:
        """Insert a batch and return the new ids. Halves a refused batch down to the bad request."""
        try:
            return await self._repository.insert_batch(batch)
        except UNSTORABLE_ERRORS as error:
            if len(batch) == 1:
                refused.append(
                    (batch[0], Permanent(f"PostgreSQL refuses it: {error}", code="unstorable"))
                )
                return set()
        half = len(batch) // 2
        first = await self._insert_batch(batch[:half], refused)
        return first | await self._insert_batch(batch[half:], refused)

    async def _announcements(
        self, admitted: Sequence[BlogRequested], new: set[UUID], began: datetime
    ) -> Sequence[OutgoingMessage]:
        repeated = [request.id for request in admitted if request.id not in new]
        untouched = await self._repository.fetch_untouched(repeated) if repeated else set[UUID]()
        return [
            messages.admitted_event(request, at=began if request.id in new else request.created_at)
            for request in admitted
            if request.id in new or request.id in untouched
        ]

    def _enqueue_jobs(self, admitted: Sequence[BlogRequested], new: set[UUID]) -> None:
        now = time.time()
        for request in admitted:
            if request.id in new:
                self._queue.enqueue(messages.waiting_job_from_request(request), now)
        self._admission.mark_dirty({request.store for request in admitted})
        self._activity.count_jobs("admitted", len(new))
        self._activity.count_jobs("repeated", len(admitted) - len(new))
