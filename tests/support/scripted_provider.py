"""A provider whose answers are scripted by the job's title. It counts calls and costs by job."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from services.generator.blog.article import Article, Outline, Section
from services.generator.providers.openai.outcomes import REFUSED
from services.generator.providers.openai.provider import TextCall, UnusableAnswer
from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind
from services.generator.quota.concurrency import PermitSupply
from services.generator.quota.rules import Permit, Reservation
from shared.domain.errors import Transient
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

_REFUSAL = Outcome(kind=OutcomeKind.ANSWER_FAULT, code=REFUSED, reason="declined")


class ProviderBehavior(StrEnum):
    """The provider's behaviour towards a job whose title contains the value."""

    FINE = "fine"
    BUSY_ONCE = "busy once"
    DECLINED = "declined"
    """Every answer is a refusal, and billed."""


class ScriptedProvider:
    """The calls and bills of all workers together, by job."""

    def __init__(self) -> None:
        self.asked: Counter[UUID] = Counter()
        self.lost: Counter[UUID] = Counter()
        """Calls whose caller died before the answer came."""
        self.billed: Counter[UUID] = Counter()
        self.served: Counter[tuple[UUID, str]] = Counter()
        """Usable answers, by job and step."""
        self.busy = asyncio.Event()
        self._in_progress = 0

    async def answer(self, call: TextCall, usage: Usage) -> None:
        """Return once the call is answered and billed."""
        self.asked[call.job] += 1
        self._in_progress += 1
        self.busy.set()
        try:
            await asyncio.sleep(_CALL_S)
            if ProviderBehavior.BUSY_ONCE in call.data and self.asked[call.job] == 1:
                raise Transient("busy", code="busy", delay=0.0)
            self.billed[call.job] += usage.cost_nanousd
            if ProviderBehavior.DECLINED in call.data:
                raise UnusableAnswer(_REFUSAL, usage)
            self.served[call.job, call.step] += 1
        except asyncio.CancelledError:
            self.lost[call.job] += 1
            raise
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self.busy.clear()


class ScriptedTextProvider:
    """Replaces `OpenAITextProvider` in one worker, without rate limits."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self._provider = provider
        self._closed = False

    def close(self) -> None:
        self._closed = True

    def is_valid(self, permit: Permit) -> bool:
        return True

    def permit_supplies(self, within_s: float) -> list[PermitSupply]:
        return [PermitSupply(jobs=1_000, waiting=0)]

    def count_queued_jobs(self) -> int:
        return 0

    async def acquire_permit(self, call: TextCall, answer: type) -> Permit:
        if self._closed:
            raise Transient("stopping", code="stopping", delay=0.0, blameless=True)
        return Permit(
            provider="openai",
            partition=call.job.int % GENERATION.partitions,
            granted_at=datetime.now(UTC),
            reservation=Reservation(needs={"requests": 1}, requested_at=0),
        )

    async def write_text(self, call: TextCall, answer: type, permit: Permit) -> tuple[Any, Usage]:
        # The number of calls makes every bill different.
        cost = 1_000_000 + self._provider.asked.total()
        usage = Usage(output_tokens=1, cost_nanousd=cost)
        await self._provider.answer(call, usage)
        return _ANSWERS[answer], usage
