"""Limits concurrent work of a process, with a lower limit for each store."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.http.responses import Problem


class ConcurrencyLimit:
    """`resource` names the limited work in the refusals."""

    def __init__(self, resource: str, *, total: int, per_store: int, retry_after_s: int) -> None:
        self._resource = resource
        self._total = total
        self._per_store = per_store
        self._headers = {"Retry-After": str(retry_after_s)}
        self._held = Counter[str]()

    @contextmanager
    def acquire_slot(self, store: str) -> Iterator[None]:
        """Hold one slot while the context is open.

        Raises 429 at the store's limit and 503 at the process's limit.
        """
        if self._held[store] >= self._per_store:
            detail = f"a store may have {self._per_store} {self._resource} at once here"
            raise Problem(429, "Too Many Requests", detail=detail, headers=self._headers)
        if self._held.total() >= self._total:
            detail = f"no more {self._resource} here for now"
            raise Problem(503, "Service Unavailable", detail=detail, headers=self._headers)
        self._held[store] += 1
        try:
            yield
        finally:
            self._held[store] -= 1
            if not self._held[store]:
                del self._held[store]
