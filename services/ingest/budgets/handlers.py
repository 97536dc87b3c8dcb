"""Shows a store's monthly budget to the store and to operators; only operators change it.

The budget is a row. The scheduler reads changes every second, so no message is published.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Authenticator
from services.ingest.auth.key_ring import Caller
from services.ingest.budgets.repository import BudgetRepository
from services.ingest.budgets.rules import BudgetBody, budget_from_row, budget_view
from services.ingest.http.body import read_json
from services.ingest.http.rules import is_store_name, parse_model
from services.ingest.jobs.reader import read_or_refuse
from shared.http.responses import JsonResponse, Problem
from shared.observability.log import get_logger

log = get_logger(__name__)

_MAX_BODY_BYTES = 1_000


class BudgetHandlers:
    """`default_cost` is the expected cost, in nano-USD, of a store's first job."""

    def __init__(
        self, *, authenticator: Authenticator, budgets: BudgetRepository, default_cost: int
    ) -> None:
        self._authenticator = authenticator
        self._budgets = budgets
        self._default_cost = default_cost

    async def handle_budget(self, request: Request) -> Response:
        """Dispatch by method: one route serves all methods, so a 405 names all of them."""
        handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "PUT": self._set_budget,
            "DELETE": self._remove_budget,
        }
        return await handlers.get(request.method, self._get_budget)(request)

    async def _get_budget(self, request: Request) -> Response:
        caller = await self._authenticator.authenticate(request)
        return await self._answer(await self._store_of_path(request, caller))

    async def _set_budget(self, request: Request) -> Response:
        operator = await self._authenticator.authenticate_operator(request)
        store = await self._store_of_path(request, operator)
        body = parse_model(BudgetBody, await read_json(request, limit=_MAX_BODY_BYTES))
        await read_or_refuse(
            self._budgets.set_budget(store, body.monthly_nanousd, body.warn_at, operator.name)
        )
        log.info("budget set", store=store, monthly_usd=body.monthly_cost_usd, by=operator.name)
        return await self._answer(store)

    async def _remove_budget(self, request: Request) -> Response:
        operator = await self._authenticator.authenticate_operator(request)
        store = await self._store_of_path(request, operator)
        await read_or_refuse(self._budgets.remove_budget(store))
        log.info("budget removed", store=store, by=operator.name)
        return await self._answer(store)

    async def _store_of_path(self, request: Request, caller: Caller) -> str:
        """Return the store in the path; 404 for another store, or one that never had a key."""
        store: str = request.path_params["store"]
        if caller.store not in (None, store):
            raise Problem(404, "Not Found", detail="no such store here")
        if caller.store is None and not (
            is_store_name(store) and await read_or_refuse(self._budgets.has_store(store))
        ):
            raise Problem(404, "Not Found", detail="no store of that name ever had a key")
        return store

    async def _answer(self, store: str) -> Response:
        row = await read_or_refuse(self._budgets.get_budget(store))
        budget = budget_from_row(dict(row), default_cost=self._default_cost)
        return JsonResponse(budget_view(budget, datetime.now(UTC)))
