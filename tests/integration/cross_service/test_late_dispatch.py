"""While a provider's limit binds, jobs wait in the fair queue and not at the worker."""

from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.fake_providers import start_fake_providers
from tests.support.processes import start_workers
from tests.support.scheduler import start_scheduler

_LIMITS = {"OPENAI_RPM": "240"}
"""Two posts a second, so about four wait at a worker of 50 slots."""
_DONE = "SELECT count(*) FROM blog_generations WHERE instance_id = $1 AND status = 'DONE'"
_HELD = (
    "SELECT count(*) FROM blog_generations WHERE forwarded_at IS NOT NULL AND finished_at IS NULL"
)


async def test_light_stores_pass_a_flood_that_came_first(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async def count(store: str) -> int:
        return int(await backend.database.fetchval(_DONE, store))

    async def is_done(store: str, least: int) -> bool:
        return await count(store) >= least

    async def count_light(least: int) -> bool:
        return sum([await count(f"light-{number}") for number in (1, 2, 3)]) >= least

    with start_fake_providers(**_LIMITS) as standins:
        async with AsyncExitStack() as services:
            await services.enter_async_context(start_scheduler(backend, database))
            start_worker = await services.enter_async_context(
                start_workers(backend, database, standins, tmp_path)
            )
            await start_worker(**_LIMITS)
            for _ in range(80):
                await backend.submit(make_request(store="flood", images=0))
            await eventually(lambda: is_done("flood", 12), timeout=60, what="posts of the flood")
            assert await backend.database.fetchval(_HELD) <= 20, "50 slots are free"
            before = await count("flood")
            for store in ("light-1", "light-2", "light-3"):
                for _ in range(2):
                    await backend.submit(make_request(store=store, images=0))
            await eventually(lambda: count_light(6), timeout=60, what="posts of the light stores")
            assert await count("flood") - before <= 12
            assert standins.openai.rejected() == 0
