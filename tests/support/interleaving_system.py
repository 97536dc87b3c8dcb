"""A stage on which plans are played: two ingest processes and a scheduler, which come and go, and a mortal worker."""

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
from tests.support.interleavings import SHOPS, Act, Bulk, Change, Event, Ledger, Plan, Post
from tests.support.restartable_worker import LEASE_S, RestartableWorker, start_restartable_worker
from tests.support.scheduler import start_scheduler
from tests.support.servers import temporary_database

T = TypeVar("T")

_ENDS_WITHIN_S = 30
_BREATH_S = 0.5
_PLANS_A_STAGE = 30
_LEFT = """
SELECT asked.id, status, attempt, worker, forwarded_at, not_before, lease_until, error, charged_nanousd, cost_nanousd
  FROM unnest($1::uuid[]) AS asked (id) LEFT JOIN blog_generations USING (id)
 WHERE (status IN ('DONE', 'FAILED', 'CANCELLED') AND charged_nanousd = cost_nanousd AND lease_until IS NULL)
       IS NOT TRUE
"""


class InterleavingSystem:
    """`play` a plan; when it returns, all that shops have asked for has ended."""

    def __init__(
        self, backend: Backend, database: str, folder: Path, worker: RestartableWorker
    ) -> None:
        self.backend = backend
        self.worker = worker
        self._an_ingest = partial(start_ingest, backend, database, folder, fresh_wait_s=2.0)
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

    async def play(self, plan: Plan) -> tuple[list[str], Ledger]:
        """The names of the shops that were on stage, and what they were answered."""
        shops = [f"shop-{uuid4().hex[:8]}" for _ in range(SHOPS)]
        keys = [await create_key(self.backend.database, shop) for shop in shops]
        books = Ledger()
        for moment in plan:
            if isinstance(moment, str):
                await self._happen(moment, books)
            else:
                sent = [self._send(act, keys[act.shop], books.job(act)) for act in moment]
                books.note(moment, await asyncio.gather(*sent))
        await self._all_end(books)
        return shops, books

    async def _send(self, act: Act, key: str, job: UUID | None) -> Sequence[httpx.Response]:
        """The answers to an act; `job` is the one to be changed, if there is one."""
        headers = {"Authorization": f"Bearer {key}"}
        if not isinstance(act, Change) and act.key is not None:
            headers["Idempotency-Key"] = f"key-{act.key}"
        post = partial(self._ingests[act.via].http.post, timeout=30)
        match act:
            case Post():
                return [await post(PATH, headers=headers, json=_asked(act.wish))]
            case Bulk(lines=True):
                content = b"\n".join(orjson.dumps(_asked(wish)) for wish in act.wishes)
                headers["Content-Type"] = "application/x-ndjson"
                return [await post(f"{PATH}/bulk", headers=headers, content=content)]
            case Bulk():
                return [
                    await post(
                        f"{PATH}/bulk", headers=headers, json=[_asked(wish) for wish in act.wishes]
                    )
                ]
            case Change():
                return (
                    [await post(f"{PATH}/{job}/{what}", headers=headers) for what in act.what]
                    if job
                    else []
                )

    async def _happen(self, event: Event, books: Ledger) -> None:
        match event:
            case "all has ended":
                await self._all_end(books)
            case "a call begins":
                await self._a_call()
            case "the scheduler is replaced":
                await self._replace_scheduler()
            case "ingest 0 restarts" | "ingest 1 restarts":
                await self._replace_ingest(int(event.split()[1]))
            case "the worker restarts":
                self.worker.restart()
            case "the worker dies":
                await self._a_call()
                await self.worker.die()

    async def _replace_scheduler(self) -> None:
        await self._replace("scheduler", next(self._schedulers))

    async def _replace_ingest(self, number: int) -> None:
        self._ingests[number] = await self._replace(number, self._an_ingest())

    async def _replace(self, place: str | int, service: AbstractAsyncContextManager[T]) -> T:
        """The next one begins, then the one before it stops, while the plan goes on."""
        stack = AsyncExitStack()
        begun = await stack.enter_async_context(service)
        if place in self._running:
            self._stopping.append(asyncio.create_task(self._running[place].aclose()))
        self._running[place] = stack
        return begun

    async def _a_call(self) -> None:
        """The worker is paying for a call; for a while it is waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BREATH_S):
                await self.worker.provider.busy.wait()

    async def _all_end(self, books: Ledger) -> None:
        """All is told, charged, and let go by the worker."""
        try:
            await eventually(partial(self._none_is_left, books), timeout=_ENDS_WITHIN_S, every=0.1)
        except AssertionError:
            left = [
                dict(row) for row in await self.backend.database.fetch(_LEFT, list(books.wishes))
            ]
            raise AssertionError(f"these do not end: {left}") from None

    async def _none_is_left(self, books: Ledger) -> bool:
        return self.worker.idle and not await self.backend.database.fetch(_LEFT, list(books.wishes))


def _asked(wish: str) -> dict[str, Any]:
    return GOOD | {"title": wish, "images": 0}


@asynccontextmanager
async def open_interleaving_system(
    bootstrap: str, prefix: str, database: str, folder: Path
) -> AsyncIterator[InterleavingSystem]:
    async with (
        open_backend(bootstrap, prefix, database) as backend,
        start_restartable_worker(backend, database) as worker,
    ):
        stage = InterleavingSystem(backend, database, folder, worker)
        try:
            await stage.open()
            yield stage
        finally:
            await stage.close()


class InterleavingRunner:
    """Has one stage for many plans. After a failure the next plan gets another one, and is judged by itself; and after
    a while, for a stage's topics have all that was ever said on it. Of no loop: property tests are not asynchronous.
    """

    def __init__(self, kafka: str, postgres: str, template_database: str, folder: Path) -> None:
        self._kafka, self._postgres, self._template = kafka, postgres, template_database
        self._folder = folder
        self._plans = 0
        self._stage: InterleavingSystem | None = None
        self._stack = ExitStack()

    def play(self, performance: Callable[[InterleavingSystem], Coroutine[Any, Any, None]]) -> None:
        self._plans += 1
        if self._plans % _PLANS_A_STAGE == 1:
            self.close()
        try:
            stage = self._stage or self._open()
            self._runner.run(performance(stage))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stage = None
        self._stack.close()

    def _open(self) -> InterleavingSystem:
        database = self._stack.enter_context(temporary_database(self._postgres, self._template))
        self._runner = self._stack.enter_context(asyncio.Runner())
        opening = open_interleaving_system(
            self._kafka, f"t{uuid4().hex[:10]}.", database, self._folder
        )
        self._stage = self._runner.run(opening.__aenter__())
        self._stack.callback(lambda: self._runner.run(opening.__aexit__(None, None, None)))
        return self._stage
