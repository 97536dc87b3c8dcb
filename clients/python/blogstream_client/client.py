"""The calls. What can be sent again without harm is, for as long as the caller has patience."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import httpx

from blogstream_client.models import Budget, Event, Job, budget_of, job_of

_PATH = "/api/blog-generation"
_PASSING = (429, 502, 503, 504)
_PAUSE_S = 1.0


class ProblemError(Exception):
    """A refusal, as application/problem+json tells it."""

    def __init__(self, answer: httpx.Response) -> None:
        try:
            told = answer.json()
        except ValueError:
            told = {}
        self.status = answer.status_code
        self.title: str = told.get("title", answer.reason_phrase)
        self.detail: str = told.get("detail", "")
        self.errors: list[dict[str, Any]] = told.get("errors", [])
        resets_at = told.get("resetsAt")
        self.resets_at = datetime.fromisoformat(resets_at) if resets_at else None
        """When the store's budget begins anew, if that is what refuses it (402)."""
        super().__init__(f"{self.status} {self.title}: {self.detail}")


class Client:
    """One store's. `pause` waits so many seconds; `http` may bring its own transport."""

    def __init__(
        self, base_url: str, key: str, *, patience_s: float = 60, http: httpx.Client | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._http = http or httpx.Client(timeout=30)
        self._base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"}
        self._patience_s = patience_s
        self._pause = pause

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, source_type: str, source_id: str, *, idempotency_key: str | None = None, **fields: Any) -> Job:
        """Ask for a post. `fields` are the interface's: title, keywords, language, tone, product, runAt, …"""
        body = {"sourceType": source_type, "sourceId": source_id} | fields
        return job_of(self._post(_PATH, idempotency_key, json=body).json())

    def submit_many(self, requests: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None) -> list[Job]:
        """Ask for many in one call: all are taken or none is."""
        answer = self._post(f"{_PATH}/bulk", idempotency_key, json=list(requests))
        return [job_of(item) for item in answer.json()["items"]]

    def submit_csv(self, export: bytes, *, idempotency_key: str | None = None) -> list[Job]:
        """The same for a Shopify product export."""
        answer = self._post(f"{_PATH}/bulk", idempotency_key, content=export, headers={"Content-Type": "text/csv"})
        return [job_of(item) for item in answer.json()["items"]]

    def get(self, job: str) -> Job:
        return job_of(self._call("GET", f"{_PATH}/{job}").json())

    def list(self, status: str | None = None, *, page: int = 100) -> Iterator[Job]:
        """All jobs, the newest first, page after page."""
        parameters: dict[str, Any] = {"limit": page} | ({"status": status} if status else {})
        while True:
            found = self._call("GET", _PATH, params=parameters).json()
            yield from map(job_of, found["items"])
            if found["next"] is None:
                return
            parameters["cursor"] = found["next"]

    def cancel(self, job: str) -> Job:
        return job_of(self._checked(self._send("POST", f"{_PATH}/{job}/cancel")).json())

    def retry(self, job: str) -> Job:
        return job_of(self._checked(self._send("POST", f"{_PATH}/{job}/retry")).json())

    def budget(self, store: str) -> Budget:
        """What a store may spend this month, and what it has; a store sees its own alone."""
        return budget_of(self._call("GET", _budget(store)).json())

    def set_budget(self, store: str, monthly_cost_usd: float, *, warn_at: float = 0.8) -> Budget:
        """With an operator's key."""
        body = {"monthlyCostUsd": monthly_cost_usd, "warnAt": warn_at}
        return budget_of(self._call("PUT", _budget(store), json=body).json())

    def remove_budget(self, store: str) -> Budget:
        """With an operator's key: the store may spend what it likes."""
        return budget_of(self._call("DELETE", _budget(store)).json())

    def events(self, job: str) -> Iterator[Event]:
        """Progress from the state now to the end. httpx.HTTPError when the connection breaks before that."""
        with self._http.stream(
            "GET", f"{self._base_url}{_PATH}/{job}/events", headers=self._headers, timeout=httpx.Timeout(30, read=60)
        ) as answer:
            if not answer.is_success:
                answer.read()
                raise ProblemError(answer)
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                fields[name] = value
                if not line:
                    if "event" in fields:
                        yield Event(name=fields["event"], data=json.loads(fields["data"]))
                    fields = {}

    def wait(self, job: str, *, timeout_s: float = 600) -> Job:
        """The job once it has ended. TimeoutError when that takes too long."""
        give_up = time.monotonic() + timeout_s
        while not (found := self.get(job)).ended:
            if time.monotonic() > give_up:
                raise TimeoutError(f"job {job} is {found.status} after {timeout_s:g} s")
            self._pause(_PAUSE_S)
        return found

    def _post(self, path: str, key: str | None, **options: Any) -> httpx.Response:
        """With a key it may be sent twice: it is one request."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex} | options.pop("headers", {})
        return self._call("POST", path, headers=headers, **options)

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Again while it is refused for now or the connection breaks, until patience ends."""
        waited = 0.0
        while True:
            try:
                answer: httpx.Response | None = self._send(method, path, **options)
            except httpx.TransportError:
                if waited >= self._patience_s:
                    raise
                answer = None
            if answer is not None and (answer.status_code not in _PASSING or waited >= self._patience_s):
                return self._checked(answer)
            seconds = _seconds(answer)
            self._pause(seconds)
            waited += seconds

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = self._headers | options.pop("headers", {})
        return self._http.request(method, f"{self._base_url}{path}", headers=headers, **options)

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if not answer.is_success:
            raise ProblemError(answer)
        return answer


def _budget(store: str) -> str:
    return f"/api/stores/{quote(store, safe='')}/budget"


def _seconds(answer: httpx.Response | None) -> float:
    told = answer.headers.get("retry-after", "") if answer is not None else ""
    return float(told) if told.isdecimal() else _PAUSE_S
