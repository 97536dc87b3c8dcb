"""A store's monthly budget over HTTP: shown to the store and to operators, set by operators alone.

It is a row, and the scheduler looks every second whether one was set: nothing has to be told to anybody.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Callers
from services.ingest.auth.key_ring import Caller
from services.ingest.budgets import rules as budget_rules
from services.ingest.budgets.rules import BudgetBody
from services.ingest.http.body import read_json
from services.ingest.jobs.reader import reading
from services.ingest.jobs.repository import IngestStore
from services.ingest.submit import rules
from shared.http.responses import JsonResponse, Problem
from shared.observability.log import get_logger

log = get_logger(__name__)

_MAX_BYTES = 1_000


class Budgets:
    """The handlers. `default_cost` is what a store's first job is taken to cost."""

    def __init__(self, *, callers: Callers, store: IngestStore, default_cost: int) -> None:
        self._callers = callers
        self._store = store
        self._default_cost = default_cost

    async def answer(self, request: Request) -> Response:
        """One route for all methods, so that a refused one is told of them."""
        handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "PUT": self.set,
            "DELETE": self.remove,
        }
        return await handlers.get(request.method, self.get)(request)

    async def get(self, request: Request) -> Response:
        return await self._tell(await self._named(request, await self._callers.anyone(request)))

    async def set(self, request: Request) -> Response:
        operator = await self._callers.operator(request)
        store = await self._named(request, operator)
        body = rules.validated(BudgetBody, await read_json(request, limit=_MAX_BYTES))
        await reading(self._store.set_budget(store, body.monthly, body.warn_at, operator.name))
        log.info(
            "a budget is set", store=store, monthly_usd=body.monthly_cost_usd, by=operator.name
        )
        return await self._tell(store)

    async def remove(self, request: Request) -> Response:
        operator = await self._callers.operator(request)
        store = await self._named(request, operator)
        await reading(self._store.remove_budget(store))
        log.info("a budget is removed", store=store, by=operator.name)
        return await self._tell(store)

    async def _named(self, request: Request, caller: Caller) -> str:
        """The store that the path names; 404 when it is another's, or none that was ever given a key."""
        store: str = request.path_params["store"]
        if caller.store not in (None, store):
            raise Problem(404, "Not Found", detail="no such store here")
        if caller.store is None and not (
            rules.is_store(store) and await reading(self._store.is_known(store))
        ):
            raise Problem(404, "Not Found", detail="no store of that name was given a key")
        return store

    async def _tell(self, store: str) -> Response:
        row = await reading(self._store.budget(store))
        found = budget_rules.budget_of(dict(row), default_cost=self._default_cost)
        return JsonResponse(budget_rules.view(found, datetime.now(UTC)))
