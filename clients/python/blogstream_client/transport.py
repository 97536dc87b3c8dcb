"""How calls are sent: again where that does no harm, for as long as there is patience."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx

CONNECTION_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
"""What may pass. A request that cannot be sent, or an address that is none, will not."""
_NOT_TAKEN = frozenset({429, 503})
"""Of what may pass: nothing has come of it. After a 502 or 504 of a proxy, nobody knows."""
PAUSE_S = 1.0


class ProblemError(Exception):
    """A refusal, as application/problem+json tells it. `raw` has everything, `room` of a bulk call, say."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        self.raw = _told(answer)
        self.title: str = self.raw.get("title", answer.reason_phrase)
        self.detail: str = self.raw.get("detail") or ""
        self.errors: list[dict[str, Any]] = self.raw.get("errors") or []
        after = answer.headers.get("retry-after", "")
        self.retry_after_s = float(after) if after.isdecimal() else None
        resets_at = self.raw.get("resetsAt")
        self.resets_at = datetime.fromisoformat(resets_at) if resets_at else None
        """When the store's budget begins anew, if that is what refuses it (402)."""
        super().__init__(f"{self.status} {self.title}: {self.detail}")

    @property
    def passing(self) -> bool:
        """Whether the same may be taken later. A 429 that does not say when never will: it is too large."""
        return self.status in (502, 503, 504) or (
            self.status == 429 and self.retry_after_s is not None
        )


class RetryDeadline:
    """How long something is tried again: until a moment of a monotonic clock, and no pause goes beyond it."""

    def __init__(
        self, seconds: float, *, clock: Callable[[], float], pause: Callable[[float], None]
    ) -> None:
        self._clock, self._pause = clock, pause
        self._until = clock() + seconds

    def at_most(self, other: "RetryDeadline") -> "RetryDeadline":
        """The shorter of both."""
        return min(self, other, key=lambda one: one._until)

    def wait(self, seconds: float) -> bool:
        """Wait so long, and True; False, at once, where that would be too long."""
        if self._clock() + seconds > self._until:
            return False
        self._pause(seconds)
        return True


class Transport:
    """One store's, or an operator's."""

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

    def patience(self, seconds: float | None = None) -> RetryDeadline:
        """It begins now. None: as much as the client has."""
        return RetryDeadline(
            self._patience_s if seconds is None else seconds, clock=self._clock, pause=self._pause
        )

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = True,
        patience: RetryDeadline | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """The answer, or `ProblemError`. Again while it is refused for now and, if `repeatable`, when it is not known
        what became of it, until patience ends."""
        patience = patience or self.patience()
        while True:
            try:
                answer = self._http.request(
                    method,
                    f"{self._base_url}{path}",
                    headers=self._headers | dict(headers or {}),
                    **options,
                )
            except CONNECTION_ERRORS:
                if not (repeatable and patience.wait(PAUSE_S)):
                    raise
                continue
            if answer.is_success:
                return answer
            problem = ProblemError(answer)
            again = problem.passing and (repeatable or problem.status in _NOT_TAKEN)
            if not (again and patience.wait(problem.retry_after_s or PAUSE_S)):
                raise problem

    @contextmanager
    def stream(self, path: str) -> Iterator[httpx.Response]:
        """An answer that comes in pieces, or `ProblemError`."""
        timeout = httpx.Timeout(30, read=60)
        with self._http.stream(
            "GET", f"{self._base_url}{path}", headers=self._headers, timeout=timeout
        ) as answer:
            if not answer.is_success:
                answer.read()
                raise ProblemError(answer)
            yield answer


def _told(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
