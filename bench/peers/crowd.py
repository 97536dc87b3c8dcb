"""Sixty tasks that ask all the time, for as long as the block lasts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import openai

from bench.account.audit import Limits
from bench.peers.calls import Ask, Caller, questions

_TASKS = 60


@dataclass(slots=True)
class Tally:
    answered: int = 0
    lost: int = 0
    """Calls that the client gave up."""


@asynccontextmanager
async def a_crowd(caller: Caller, url: str, limits: Limits) -> AsyncIterator[Tally]:
    tally = Tally()
    async with caller(url, limits) as ask:
        tasks = [asyncio.create_task(_keep_asking(ask, tally)) for _ in range(_TASKS)]
        try:
            yield tally
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    faults = [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)]
    if faults:
        raise RuntimeError(f"{len(faults)} tasks of a peer broke") from faults[0]


async def _keep_asking(ask: Ask, tally: Tally) -> None:
    for question in questions():
        try:
            await ask(question)
        except openai.OpenAIError:
            tally.lost += 1
        else:
            tally.answered += 1
