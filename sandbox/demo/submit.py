"""Submits the requests of all demo stores, a few at a time per store."""

import asyncio
from collections.abc import Sequence

from sandbox.demo.client import StoreClient
from sandbox.demo.stores import DemoStore

_PARALLEL_PER_STORE = 8


async def submit_all_requests(
    stores: Sequence[DemoStore], clients: dict[str, StoreClient]
) -> dict[str, list[str]]:
    """Submit every request and return the ids of the accepted jobs by store.

    Raises the error of the first refused request.
    """
    accepted = await asyncio.gather(
        *(_submit_store(store, clients[store.name]) for store in stores)
    )
    return {store.name: ids for store, ids in zip(stores, accepted, strict=True)}


async def _submit_store(store: DemoStore, client: StoreClient) -> list[str]:
    limit = asyncio.Semaphore(_PARALLEL_PER_STORE)
    ids: list[str] = []

    async def submit(request: dict[str, object]) -> None:
        async with limit:
            ids.append(await client.submit_request(request))

    async with asyncio.TaskGroup() as tasks:
        for request in store.requests:
            tasks.create_task(submit(request))
    return ids
