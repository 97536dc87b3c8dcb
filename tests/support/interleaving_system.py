"""A system that executes plans: two ingest services, a scheduler and a worker, all replaceable."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    suppress,
)
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
import orjson

from shared.domain.api_keys import create_key
from tests.support.backend import Backend, open_backend
from tests.support.eventually import eventually
from tests.support.ingest import GOOD, PATH, Ingest, start_ingest
from tests.support.interleavings import SHOPS, Act, Bulk, Change, Event, Ledger, Plan, SinglePost
from tests.support.restartable_worker import LEASE_S, RestartableWorker, start_restartable_worker
from tests.support.scheduler import start_scheduler
from tests.support.servers import temporary_database

T = TypeVar("T")

_ENDS_WITHIN_S = 30
_CALL_WITHIN_S = 0.5
_PLANS_PER_SYSTEM = 30
_UNFINISHED = """
SELECT accepted.id, status, attempt, worker, forwarded_at, not_before, lease_until, error,
       charged_nanousd, cost_nanousd
  FROM unnest($1::uuid[]) AS accepted (id) LEFT JOIN blog_generations USING (id)
 WHERE (status IN ('DONE', 'FAILED', 'CANCELLED') AND charged_nanousd = cost_nanousd
        AND lease_until IS NULL) IS NOT TRUE
"""


class InterleavingSystem:
    """The services, and `execute` for a plan: when it returns, every accepted job has ended."""

    def __init__(
        self, backend: Backend, database: str, folder: Path, worker: RestartableWorker
    ) -> None:
        self.backend = backend
        self.worker = worker
        self._new_ingest = partial(start_ingest, backend, database, folder, fresh_wait_s=2.0)
        self._schedulers = (
            start_scheduler(
                backend, database, f"scheduler-{number}", lease_s=LEASE_S, forward_timeout_s=3
            )
            for number in count(1)
        )
        self._ingests: dict[int, Ingest] = {}
        self._running: dict[str | int, AsyncExitStack] = {}
        self._stopping: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        await self._replace_scheduler()
        for number in range(2):
            await self._replace_ingest(number)

    async def close(self) -> None:
        await asyncio.gather(*(stack.aclose() for stack in self._running.values()), *self._stopping)

    async def execute(self, plan: Plan) -> tuple[list[str], Ledger]:
        """Execute a plan and return the names of its stores and the answers they got."""
        shops = [f"shop-{uuid4().hex[:8]}" for _ in range(SHOPS)]
        keys = [await create_key(self.backend.database, shop) for shop in shops]
        ledger = Ledger()
        for moment in plan:
            if isinstance(moment, str):
                await self._apply_event(moment, ledger)
            else:
                sent = [self._send(act, keys[act.shop], ledger.job(act)) for act in moment]
                ledger.record(moment, await asyncio.gather(*sent))
        await self._wait_all_ended(ledger)
        return shops, ledger

    async def _send(self, act: Act, key: str, job: UUID | None) -> Sequence[httpx.Response]:
        """Make the call and return its answers; `job` is the one to change, if there is one."""
        headers = {"Authorization": f"Bearer {key}"}
        if not isinstance(act, Change) and act.key is not None:
            headers["Idempotency-Key"] = f"key-{act.key}"
        post = partial(self._ingests[act.via].http.post, timeout=30)
        match act:
            case SinglePost():
                return [await post(PATH, headers=headers, json=_body(act.requested_behavior))]
            case Bulk(lines=True):
                content = b"\n".join(
                    orjson.dumps(_body(behavior)) for behavior in act.requested_behaviors
                )
                headers["Content-Type"] = "application/x-ndjson"
                return [await post(f"{PATH}/bulk", headers=headers, content=content)]
            case Bulk():
                return [
                    await post(
                        f"{PATH}/bulk",
                        headers=headers,
                        json=[_body(behavior) for behavior in act.requested_behaviors],
                    )
                ]
            case Change():
                return (
                    [
                        await post(f"{PATH}/{job}/{action}", headers=headers)
                        for action in act.actions
                    ]
                    if job
                    else []
                )

    async def _apply_event(self, event: Event, ledger: Ledger) -> None:
        match event:
            case "all has ended":
                await self._wait_all_ended(ledger)
            case "a call begins":
                await self._wait_for_call()
            case "the scheduler is replaced":
                await self._replace_scheduler()
            case "ingest 0 restarts" | "ingest 1 restarts":
                await self._replace_ingest(int(event.split()[1]))
            case "the worker restarts":
                self.worker.restart()
            case "the worker dies":
                await self._wait_for_call()
                await self.worker.kill()

    async def _replace_scheduler(self) -> None:
        await self._replace("scheduler", next(self._schedulers))

    async def _replace_ingest(self, number: int) -> None:
        self._ingests[number] = await self._replace(number, self._new_ingest())

    async def _replace(self, place: str | int, service: AbstractAsyncContextManager[T]) -> T:
        """Start the next service, then stop the one before it while the plan goes on."""
        stack = AsyncExitStack()
        started = await stack.enter_async_context(service)
        if place in self._running:
            self._stopping.append(asyncio.create_task(self._running[place].aclose()))
        self._running[place] = stack
        return started

    async def _wait_for_call(self) -> None:
        """Wait briefly until the worker is in a provider call."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CALL_WITHIN_S):
                await self.worker.provider.busy.wait()

    async def _wait_all_ended(self, ledger: Ledger) -> None:
        """Wait until every accepted job has ended and is charged, and the worker is idle."""
        try:
            await eventually(partial(self._has_ended, ledger), timeout=_ENDS_WITHIN_S, every=0.1)
        except AssertionError:
            unfinished = [
                dict(row)
                for row in await self.backend.database.fetch(
                    _UNFINISHED, list(ledger.requested_behaviors)
                )
            ]
            raise AssertionError(f"jobs that did not end: {unfinished}") from None

    async def _has_ended(self, ledger: Ledger) -> bool:
        return self.worker.idle and not await self.backend.database.fetch(
            _UNFINISHED, list(ledger.requested_behaviors)
        )


def _body(wish: str) -> dict[str, Any]:
    return GOOD | {"title": wish, "images": 0}


@asynccontextmanager
async def open_interleaving_system(
    bootstrap: str, prefix: str, database: str, folder: Path
) -> AsyncIterator[InterleavingSystem]:
    async with (
        open_backend(bootstrap, prefix, database) as backend,
        start_restartable_worker(backend, database) as worker,
    ):
        system = InterleavingSystem(backend, database, folder, worker)
        try:
            await system.open()
            yield system
        finally:
            await system.close()


class InterleavingRunner:
    """Executes many plans on one system.

    A new system is opened after a failure, so that each plan fails by itself, and after some plans,
    because topics keep the records of all of them. It owns its event loop: property tests are not
    asynchronous.
    """

    def __init__(self, kafka: str, postgres: str, template_database: str, folder: Path) -> None:
        self._kafka, self._postgres, self._template = kafka, postgres, template_database
        self._folder = folder
        self._plans = 0
        self._system: InterleavingSystem | None = None
        self._stack = ExitStack()

    def execute(self, check: Callable[[InterleavingSystem], Coroutine[Any, Any, None]]) -> None:
        self._plans += 1
        if self._plans % _PLANS_PER_SYSTEM == 1:
            self.close()
        try:
            system = self._system or self._open()
            self._runner.run(check(system))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._system = None
        self._stack.close()

    def _open(self) -> InterleavingSystem:
        database = self._stack.enter_context(temporary_database(self._postgres, self._template))
        self._runner = self._stack.enter_context(asyncio.Runner())
        opening = open_interleaving_system(
            self._kafka, f"t{uuid4().hex[:10]}.", database, self._folder
        )
        self._system = self._runner.run(opening.__aenter__())
        self._stack.callback(lambda: self._runner.run(opening.__aexit__(None, None, None)))
        return self._system
