"""A provider that a test plays: it does what a job's title says, and knows what it was asked and has billed."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from services.generator.blog.article import Article, Outline, Section
from services.generator.providers.openai import TextCall, UnusableAnswer
from services.generator.quota.rules import Permit, Reservation
from shared.domain.errors import Permanent, Transient
from shared.domain.messages import Usage
from shared.kafka.topics import GENERATION

_CALL_S = 0.25
_ANSWERS: dict[type, BaseModel] = {
    Outline: Outline(title="Tea", angle="hot", headings=["Tea"], keywords=[]),
    Article: Article(
        title="Tea",
        slug="tea",
        meta_description="",
        sections=[Section(heading="Tea", paragraphs=["It is hot."])],
    ),
}


class Wish(StrEnum):
    """What a job's title asks the provider for."""

    FINE = "fine"
    BUSY_ONCE = "busy once"
    DECLINED = "declined"
    """Every answer is a refusal, and billed."""


class ScriptedProvider:
    """What all lives together have asked, and what they were billed, by job."""

    def __init__(self) -> None:
        self.asked: Counter[UUID] = Counter()
        self.lost: Counter[UUID] = Counter()
        """Calls whose caller died before the answer came."""
        self.billed: Counter[UUID] = Counter()
        self.served: Counter[tuple[UUID, str]] = Counter()
        """Answers that could be used, by job and step."""
        self.busy = asyncio.Event()
        self._under_way = 0

    async def answer(self, call: TextCall, usage: Usage) -> None:
        """Return when the answer is there, and billed."""
        self.asked[call.job] += 1
        self._under_way += 1
        self.busy.set()
        try:
            await asyncio.sleep(_CALL_S)
            if Wish.BUSY_ONCE in call.data and self.asked[call.job] == 1:
                raise Transient("busy", code="busy", delay=0.0)
            self.billed[call.job] += usage.cost_nanousd
            if Wish.DECLINED in call.data:
                raise UnusableAnswer(Permanent("declined", code="declined"), usage)
            self.served[call.job, call.step] += 1
        except asyncio.CancelledError:
            self.lost[call.job] += 1
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.busy.clear()


class ScriptedTextProvider:
    """One life's way to the provider, in the place of `OpenAIWriter`: no limit holds it up."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self._provider = provider
        self._closed = False

    def close(self) -> None:
        self._closed = True

    def is_valid(self, grant: Permit) -> bool:
        return True

    async def acquire_permit(self, call: TextCall, answer: type, *, may_probe: bool = True) -> Permit:
        if self._closed:
            raise Transient("stopping", code="stopping", delay=0.0, blameless=True)
        ticket = Reservation(needs={"requests": 1}, asked_at=0)
        return Permit(
            provider="openai",
            partition=call.job.int % GENERATION.partitions,
            at=datetime.now(UTC),
            reservation=ticket,
        )

    async def write_text(self, call: TextCall, answer: type, grant: Permit) -> tuple[Any, Usage]:
        usage = Usage(
            output_tokens=1, cost_nanousd=1_000_000 + self._provider.asked.total()
        )  # no two bills are alike
        await self._provider.answer(call, usage)
        return _ANSWERS[answer], usage
