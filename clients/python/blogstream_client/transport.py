"""Sends calls and repeats them where a repetition is safe, until a deadline."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx

CONNECTION_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
"""Errors worth a retry. Malformed requests and unsupported addresses are not among them."""
_NOT_PROCESSED = frozenset({429, 503})
"""Refusals of a call that had no effect. After a proxy's 502 or 504 the effect is unknown."""
PAUSE_S = 1.0


class ProblemError(Exception):
    """A refusal, from its application/problem+json. `raw` has all fields, for example `room`."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        self.raw = _problem_fields(answer)
        self.title: str = self.raw.get("title", answer.reason_phrase)
        self.detail: str = self.raw.get("detail") or ""
        self.errors: list[dict[str, Any]] = self.raw.get("errors") or []
        after = answer.headers.get("retry-after", "")
        self.retry_after_s = float(after) if after.isdecimal() else None
        resets_at = self.raw.get("resetsAt")
        self.resets_at = datetime.fromisoformat(resets_at) if resets_at else None
        """The time at which the store's budget resets, if the budget is exhausted (402)."""
        super().__init__(f"{self.status} {self.title}: {self.detail}")

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later. A 429 without Retry-After never does."""
        return self.status in (502, 503, 504) or (
            self.status == 429 and self.retry_after_s is not None
        )


class RetryDeadline:
    """The time until which a call is repeated, on a monotonic clock. No pause exceeds it."""

    def __init__(
        self, seconds: float, *, clock: Callable[[], float], pause: Callable[[float], None]
    ) -> None:
        self._clock, self._pause = clock, pause
        self._until = clock() + seconds

    def earlier_of(self, other: "RetryDeadline") -> "RetryDeadline":
        """Return the earlier of two deadlines."""
        return min(self, other, key=lambda one: one._until)

    def wait(self, seconds: float) -> bool:
        """Wait and return True, or return False at once if the wait would exceed the deadline."""
        if self._clock() + seconds > self._until:
            return False
        self._pause(seconds)
        return True


class Transport:
    """Sends the calls of one API key."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        patience_s: float,
        http: httpx.Client,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not key or not all("!" <= letter <= "~" for letter in key):
            raise ValueError("an API key has letters, digits, '_' and '-', and nothing around them")
        self._base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"}
        self._patience_s, self._http, self._pause, self._clock = patience_s, http, pause, clock

    def retry_deadline(self, seconds: float | None = None) -> RetryDeadline:
        """Return a deadline that many seconds from now; by default the client's `patience_s`."""
        return RetryDeadline(
            self._patience_s if seconds is None else seconds, clock=self._clock, pause=self._pause
        )

    def close(self) -> None:
        self._http.close()

    def send_call(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = True,
        deadline: RetryDeadline | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send a call and return its successful response; raise `ProblemError` on a refusal.

        Temporary refusals are retried until the deadline. Calls with an unknown effect are
        retried only if `repeatable`.
        """
        deadline = deadline or self.retry_deadline()
        while True:
            try:
                answer = self._http.request(
                    method,
                    f"{self._base_url}{path}",
                    headers=self._headers | dict(headers or {}),
                    **options,
                )
            except CONNECTION_ERRORS:
                if not (repeatable and deadline.wait(PAUSE_S)):
                    raise
                continue
            if answer.is_success:
                return answer
            problem = ProblemError(answer)
            may_repeat = problem.passing and (repeatable or problem.status in _NOT_PROCESSED)
            if not (may_repeat and deadline.wait(problem.retry_after_s or PAUSE_S)):
                raise problem

    @contextmanager
    def open_stream(self, path: str) -> Iterator[httpx.Response]:
        """Open a streaming response; raise `ProblemError` on a refusal."""
        timeout = httpx.Timeout(30, read=60)
        with self._http.stream(
            "GET", f"{self._base_url}{path}", headers=self._headers, timeout=timeout
        ) as answer:
            if not answer.is_success:
                answer.read()
                raise ProblemError(answer)
            yield answer


def _problem_fields(answer: httpx.Response) -> dict[str, Any]:
    try:
        fields = answer.json()
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
