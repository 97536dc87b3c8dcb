"""The calls, one a method."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, Unpack
from uuid import UUID

import httpx

from blogstream_client.events import parse_events
from blogstream_client.models import (
    Budget,
    Delivery,
    Event,
    Job,
    Taken,
    Ticket,
    parse_budget,
    parse_delivery,
    parse_job,
    parse_taken,
    parse_ticket,
)
from blogstream_client.request_fields import (
    Fields,
    Request,
    SourceType,
    WritingOptions,
    idempotency_key,
    json_body,
    path_id,
    path_store,
    request_body,
)
from blogstream_client.transport import CONNECTION_ERRORS, PAUSE_S, ProblemError, Transport

_JOBS = "/api/blog-generation"
_DELIVERIES = "/api/webhook-deliveries"


class Client:
    """One store's, or an operator's. `patience_s`: how long a call is sent again while it is refused for now, or the
    connection breaks. `http` may bring its own transport and timeouts, `pause` and `clock` another time than this
    machine's."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        patience_s: float = 60,
        http: httpx.Client | None = None,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        http = http or httpx.Client(timeout=30)
        self._base_url = base_url.rstrip("/")
        self._transport = Transport(
            base_url, key, patience_s=patience_s, http=http, pause=pause, clock=clock
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def submit(
        self,
        source_type: SourceType,
        source_id: str,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[Fields],
    ) -> Job:
        """Ask for a post."""
        body = request_body({"source_type": source_type, "source_id": source_id, **fields})
        return parse_job(self._post(_JOBS, idempotency_key, **json_body(body)).json())

    def submit_many(
        self, requests: Iterable[Request | Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Job]:
        """Ask for many in one call: all are taken or none is."""
        bodies = [request_body(request) for request in requests]
        return parse_taken(self._post(f"{_JOBS}/bulk", idempotency_key, **json_body(bodies)).json())

    def submit_csv(
        self, export: bytes, *, idempotency_key: str | None = None, **manner: Unpack[WritingOptions]
    ) -> Taken:
        """The same for a Shopify product export, of each product in the same manner. `left_out` of the list says which
        products were not asked for, as drafts are not."""
        headers = {"Content-Type": "text/csv"}
        answer = self._post(
            f"{_JOBS}/bulk", idempotency_key, headers, params=request_body(manner), content=export
        )
        return parse_taken(answer.json())

    def get(self, job: str | UUID) -> Job:
        return parse_job(self._transport.call("GET", _job(job)).json())

    def list(
        self, status: str | None = None, *, page: int = 100, store: str | None = None
    ) -> Iterator[Job]:
        """All jobs, the newest first, page after page. An operator names the store."""
        return map(parse_job, self._pages(_JOBS, {"status": status, "store": store, "limit": page}))

    def cancel(self, job: str | UUID) -> Job:
        """Sent again only where it was refused for now; where the connection breaks, `get` tells what it did."""
        return parse_job(
            self._transport.call("POST", f"{_job(job)}/cancel", repeatable=False).json()
        )

    def retry(self, job: str | UUID) -> Job:
        """Let a job that failed or was cancelled go on; sent again as `cancel` is."""
        return parse_job(
            self._transport.call("POST", f"{_job(job)}/retry", repeatable=False).json()
        )

    def budget(self, store: str) -> Budget:
        """What a store may spend this month, and what it has; a store sees its own alone."""
        return parse_budget(self._transport.call("GET", _budget(store)).json())

    def set_budget(self, store: str, monthly_cost_usd: float, *, warn_at: float = 0.8) -> Budget:
        """With an operator's key."""
        body = {"monthlyCostUsd": monthly_cost_usd, "warnAt": warn_at}
        return parse_budget(self._transport.call("PUT", _budget(store), **json_body(body)).json())

    def remove_budget(self, store: str) -> Budget:
        """With an operator's key: the store may spend what it likes."""
        return parse_budget(self._transport.call("DELETE", _budget(store)).json())

    def ticket(self, job: str | UUID) -> Ticket:
        """What lets a browser follow this job for a minute."""
        return parse_ticket(
            self._transport.call("POST", f"{_job(job)}/events-ticket").json(), self._base_url
        )

    def deliveries(
        self, job: str | UUID | None = None, *, page: int = 100, store: str | None = None
    ) -> Iterator[Delivery]:
        """What was told to the store's server, the newest first, with every attempt. An operator names the store."""
        of_job = None if job is None else path_id(job)
        return map(
            parse_delivery, self._pages(_DELIVERIES, {"job": of_job, "store": store, "limit": page})
        )

    def replay(self, delivery: str | UUID) -> None:
        """Have it sent once more, under the same webhook-id."""
        self._transport.call("POST", f"{_DELIVERIES}/{path_id(delivery)}/replay", repeatable=False)

    def events(self, job: str | UUID) -> Iterator[Event]:
        """Progress from the state now to the end: the last is the job that has ended.

        A stream that breaks is opened again, and begins with the job's state then. RetryDeadline begins anew with all that
        is heard; when it ends, or for a refusal that will not pass, what was in the way is raised.
        """
        path, patience = f"{_job(job)}/events", self._transport.patience()
        while True:
            try:
                with self._transport.stream(path) as answer:
                    for event in parse_events(answer.iter_lines()):
                        yield event
                        if event.ended:
                            return
                        patience = self._transport.patience()
                failure: Exception = ConnectionError(
                    f"the stream of job {job} ended before the job"
                )
            except CONNECTION_ERRORS as error:
                failure = error
            except ProblemError as problem:
                if not _may_come(problem):
                    raise
                failure = problem
            if not patience.wait(getattr(failure, "retry_after_s", None) or PAUSE_S):
                raise failure

    def wait(self, job: str | UUID, *, timeout_s: float = 600) -> Job:
        """The job once it has ended. TimeoutError when that takes too long.

        A job that was accepted a moment ago may not be there yet, so a 404 counts only when patience has ended.
        """
        timeout, unseen = self._transport.patience(timeout_s), self._transport.patience()
        while True:
            try:
                found = parse_job(
                    self._transport.call("GET", _job(job), patience=timeout.at_most(unseen)).json()
                )
            except ProblemError as problem:
                if problem.status != 404 or not timeout.at_most(unseen).wait(PAUSE_S):
                    raise
                continue
            if found.ended:
                return found
            unseen = self._transport.patience()
            if not timeout.wait(PAUSE_S):
                raise TimeoutError(f"job {job} is {found.status} after {timeout_s:g} s")

    def _post(
        self, path: str, key: str | None, headers: Mapping[str, str], **options: Any
    ) -> httpx.Response:
        """With a key it may be sent twice: it is one request."""
        keyed = idempotency_key(uuid.uuid4().hex if key is None else key)
        return self._transport.call("POST", path, headers=keyed | dict(headers), **options)

    def _pages(self, path: str, parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        asked = {name: value for name, value in parameters.items() if value is not None}
        while True:
            found = self._transport.call("GET", path, params=asked).json()
            yield from found["items"]
            if found["next"] is None:
                return
            asked["cursor"] = found["next"]


def _may_come(problem: ProblemError) -> bool:
    """Of a job: a 404 may mean that it was only just accepted."""
    return problem.status == 404 or problem.passing


def _job(job: str | UUID) -> str:
    return f"{_JOBS}/{path_id(job)}"


def _budget(store: str) -> str:
    return f"/api/stores/{path_store(store)}/budget"
