"""Sends calls from sixty tasks without pause."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import openai

from bench.account.decisions import AccountLimits
from bench.peers.calls import OpenPeer, SendCall, generate_calls

_TASKS = 60


@dataclass(slots=True)
class CallCounts:
    answered: int = 0
    lost: int = 0
    """Calls that the client gave up."""


@asynccontextmanager
async def run_load(
    open_peer: OpenPeer, url: str, limits: AccountLimits
) -> AsyncIterator[CallCounts]:
    counts = CallCounts()
    async with open_peer(url, limits) as send_call:
        tasks = [asyncio.create_task(_keep_calling(send_call, counts)) for _ in range(_TASKS)]
        try:
            yield counts
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)]
    if errors:
        raise RuntimeError(f"{len(errors)} tasks of a peer failed") from errors[0]


async def _keep_calling(send_call: SendCall, counts: CallCounts) -> None:
    for call in generate_calls():
        try:
            await send_call(call)
        except openai.OpenAIError:
            counts.lost += 1
        else:
            counts.answered += 1
