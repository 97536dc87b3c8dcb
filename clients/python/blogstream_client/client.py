"""The client: one method per call of the HTTP API."""

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
    """Calls the HTTP API with the key of a store or an operator.

    `patience_s` limits the retries of a call after temporary refusals and connection errors, in
    seconds. `http` sets a custom transport and timeouts. Tests replace `pause` and `clock`.
    """

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
        """Submit a request for one post."""
        body = request_body({"source_type": source_type, "source_id": source_id, **fields})
        return parse_job(self._post(_JOBS, idempotency_key, **json_body(body)).json())

    def submit_many(
        self, requests: Iterable[Request | Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Job]:
        """Submit many requests in one call: all are accepted or none."""
        bodies = [request_body(request) for request in requests]
        return parse_taken(self._post(f"{_JOBS}/bulk", idempotency_key, **json_body(bodies)).json())

    def submit_csv(
        self,
        export: bytes,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[WritingOptions],
    ) -> Taken:
        """Submit the products of a Shopify export with the same options.

        The returned list has `left_out`: the products without a request, such as drafts.
        """
        headers = {"Content-Type": "text/csv"}
        answer = self._post(
            f"{_JOBS}/bulk", idempotency_key, headers, params=request_body(options), content=export
        )
        return parse_taken(answer.json())

    def get(self, job: str | UUID) -> Job:
        return parse_job(self._transport.send_call("GET", _job_path(job)).json())

    def list(
        self, status: str | None = None, *, page: int = 100, store: str | None = None
    ) -> Iterator[Job]:
        """Yield all jobs, newest first, page after page. An operator names the store."""
        return map(parse_job, self._pages(_JOBS, {"status": status, "store": store, "limit": page}))

    def cancel(self, job: str | UUID) -> Job:
        """Cancel a job. Retried after 429 and 503 only; after a connection error, check `get`."""
        return parse_job(
            self._transport.send_call("POST", f"{_job_path(job)}/cancel", repeatable=False).json()
        )

    def retry(self, job: str | UUID) -> Job:
        """Retry a failed or cancelled job. Repeated under the same rules as `cancel`."""
        return parse_job(
            self._transport.send_call("POST", f"{_job_path(job)}/retry", repeatable=False).json()
        )

    def budget(self, store: str) -> Budget:
        """Return a store's budget and spend of this month. A store sees only its own budget."""
        return parse_budget(self._transport.send_call("GET", _budget_path(store)).json())

    def set_budget(self, store: str, monthly_cost_usd: float, *, warn_at: float = 0.8) -> Budget:
        """Set a store's budget. Needs an operator's key."""
        body = {"monthlyCostUsd": monthly_cost_usd, "warnAt": warn_at}
        return parse_budget(
            self._transport.send_call("PUT", _budget_path(store), **json_body(body)).json()
        )

    def remove_budget(self, store: str) -> Budget:
        """Remove a store's budget: its spend is unlimited. Needs an operator's key."""
        return parse_budget(self._transport.send_call("DELETE", _budget_path(store)).json())

    def ticket(self, job: str | UUID) -> Ticket:
        """Return a ticket with which a browser can follow this job's events for one minute."""
        return parse_ticket(
            self._transport.send_call("POST", f"{_job_path(job)}/events-ticket").json(),
            self._base_url,
        )

    def deliveries(
        self, job: str | UUID | None = None, *, page: int = 100, store: str | None = None
    ) -> Iterator[Delivery]:
        """Yield webhook deliveries and their attempts, newest first. Operators name the store."""
        of_job = None if job is None else path_id(job)
        return map(
            parse_delivery, self._pages(_DELIVERIES, {"job": of_job, "store": store, "limit": page})
        )

    def replay(self, delivery: str | UUID) -> None:
        """Send a delivery once more, with the same webhook-id."""
        self._transport.send_call(
            "POST", f"{_DELIVERIES}/{path_id(delivery)}/replay", repeatable=False
        )

    def events(self, job: str | UUID) -> Iterator[Event]:
        """Yield a job's events from its current state to its end; the last is the ended job.

        A broken stream is opened again and starts with the job's current state. Every event starts
        a new retry deadline. At the deadline, or after a final refusal, the last error is raised.
        """
        path, deadline = f"{_job_path(job)}/events", self._transport.retry_deadline()
        while True:
            try:
                with self._transport.open_stream(path) as answer:
                    for event in parse_events(answer.iter_lines()):
                        yield event
                        if event.ended:
                            return
                        deadline = self._transport.retry_deadline()
                failure: Exception = ConnectionError(
                    f"the stream of job {job} ended before the job"
                )
            except CONNECTION_ERRORS as error:
                failure = error
            except ProblemError as problem:
                if not _may_appear_later(problem):
                    raise
                failure = problem
            if not deadline.wait(getattr(failure, "retry_after_s", None) or PAUSE_S):
                raise failure

    def wait(self, job: str | UUID, *, timeout_s: float = 600) -> Job:
        """Return the job once it has ended; raise TimeoutError after `timeout_s`.

        A job that was just accepted may not exist yet, so 404 is final only after `patience_s`.
        """
        timeout = self._transport.retry_deadline(timeout_s)
        not_found = self._transport.retry_deadline()
        while True:
            try:
                answer = self._transport.send_call(
                    "GET", _job_path(job), deadline=timeout.earlier_of(not_found)
                )
            except ProblemError as problem:
                if problem.status != 404 or not timeout.earlier_of(not_found).wait(PAUSE_S):
                    raise
                continue
            found = parse_job(answer.json())
            if found.ended:
                return found
            not_found = self._transport.retry_deadline()
            if not timeout.wait(PAUSE_S):
                raise TimeoutError(f"job {job} is {found.status} after {timeout_s:g} s")

    def _post(
        self, path: str, key: str | None, headers: Mapping[str, str], **options: Any
    ) -> httpx.Response:
        """Send a POST with an idempotency key, which makes a repetition safe."""
        key_header = idempotency_key(uuid.uuid4().hex if key is None else key)
        return self._transport.send_call(
            "POST", path, headers=key_header | dict(headers), **options
        )

    def _pages(self, path: str, parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        query = {name: value for name, value in parameters.items() if value is not None}
        while True:
            found = self._transport.send_call("GET", path, params=query).json()
            yield from found["items"]
            if found["next"] is None:
                return
            query["cursor"] = found["next"]


def _may_appear_later(problem: ProblemError) -> bool:
    """Return whether to retry. 404 may mean that the job was just accepted."""
    return problem.status == 404 or problem.passing


def _job_path(job: str | UUID) -> str:
    return f"{_JOBS}/{path_id(job)}"


def _budget_path(store: str) -> str:
    return f"/api/stores/{path_store(store)}/budget"
