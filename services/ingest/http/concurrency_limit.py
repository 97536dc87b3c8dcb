"""What a process does only so many times at once, and for one store only a part of them, so that none takes all."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.http.responses import Problem


class Slots:
    """`what` is held, for the refusal."""

    def __init__(self, what: str, *, of_all: int, of_one: int, retry_after_s: int) -> None:
        self._what = what
        self._of_all = of_all
        self._of_one = of_one
        self._headers = {"Retry-After": str(retry_after_s)}
        self._held = Counter[str]()

    @contextmanager
    def held(self, store: str) -> Iterator[None]:
        """Hold one; 429 when the store has its part already, 503 when there is none left."""
        if self._held[store] >= self._of_one:
            detail = f"a store may have {self._of_one} {self._what} at once here"
            raise Problem(429, "Too Many Requests", detail=detail, headers=self._headers)
        if self._held.total() >= self._of_all:
            detail = f"no more {self._what} here for now"
            raise Problem(503, "Service Unavailable", detail=detail, headers=self._headers)
        self._held[store] += 1
        try:
            yield
        finally:
            self._held[store] -= 1
            if not self._held[store]:
                del self._held[store]
