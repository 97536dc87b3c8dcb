"""Sends the shops' requests in, all shops at once, each shop's in order."""

import asyncio
from collections.abc import Sequence

from sandbox.demo.client import StoreClient
from sandbox.demo.stores import DemoStore

_AT_ONCE_PER_SHOP = 8


async def submit_all_requests(shops: Sequence[DemoStore], apis: dict[str, StoreClient]) -> dict[str, list[str]]:
    """The ids of the accepted jobs by shop. A refusal ends the run with its reason."""
    accepted = await asyncio.gather(*(_submit_shop(shop, apis[shop.name]) for shop in shops))
    return {shop.name: ids for shop, ids in zip(shops, accepted, strict=True)}


async def _submit_shop(shop: DemoStore, api: StoreClient) -> list[str]:
    gate = asyncio.Semaphore(_AT_ONCE_PER_SHOP)
    ids: list[str] = []

    async def one(request: dict[str, object]) -> None:
        async with gate:
            ids.append(await api.submit(request))

    async with asyncio.TaskGroup() as tasks:
        for request in shop.requests:
            tasks.create_task(one(request))
    return ids
