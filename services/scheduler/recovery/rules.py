"""What to correct in a database that was restored from a backup, by what Kafka has said of its jobs since.

Rows are written before events, so a database that lost nothing is never behind its events, and nothing is corrected.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from shared.domain.job import ENDED, Status
from shared.domain.messages import EventKind, JobEvent, Usage

_NOTHING = Usage()
_KEPT = ENDED - {Status.DONE}
"""How a job may have ended that loses nothing by it: only a finished post is gone with its row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedState:
    """The last that was said of a job."""

    attempt: int
    status: Status
    at: datetime
    error: str | None
    usage: Usage
    """The highest bill that was told."""
    unbilled: frozenset[str]
    """Steps that were paid for since, so that no bill says what they cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """What the database has of the job."""

    attempt: int
    status: Status
    done: frozenset[str]
    """Steps whose answers are saved."""
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """`attempt` is beyond all that were said, so that events stay in order and old workers are fenced off."""

    status: Status
    attempt: int
    ended_at: datetime | None
    error: str | None
    bill: Usage
    """What was paid for answers that are gone."""
    doubted: tuple[str, ...]
    """Steps that were paid for and are gone; what they cost, nobody has said."""
    was_done: bool


def merge_event(word: ReportedState | None, event: JobEvent) -> ReportedState | None:
    """What is the last word, with this event."""
    if event.kind is EventKind.ADMITTED:
        return word
    usage, unbilled = (
        (word.usage, word.unbilled) if word is not None else (_NOTHING, frozenset[str]())
    )
    if event.usage.cost_nanousd > usage.cost_nanousd or event.kind is EventKind.ENDED:
        unbilled = frozenset()
    if event.usage.cost_nanousd > usage.cost_nanousd:
        usage = event.usage
    if event.kind is EventKind.STEP_DONE and event.step is not None:
        unbilled |= {event.step}
    if word is not None and _rank(word.attempt, word.status, word.at) > _rank(
        event.attempt, event.status, event.at
    ):
        return ReportedState(
            attempt=word.attempt,
            status=word.status,
            at=word.at,
            error=word.error,
            usage=usage,
            unbilled=unbilled,
        )
    return ReportedState(
        attempt=event.attempt,
        status=event.status,
        at=event.at,
        error=event.error,
        usage=usage,
        unbilled=unbilled,
    )


def _rank(attempt: int, status: Status, at: datetime) -> tuple[int, bool, datetime]:
    return attempt, status in ENDED, at


def find_correction(known: SavedState, word: ReportedState) -> Correction | None:
    """None when the database knows all that was said. What had failed or was cancelled stays so; what was done is to
    be written, and paid for, again."""
    bill, ended = _difference(word.usage, known.usage), word.status in ENDED
    unsaved = sorted(word.unbilled - known.done)
    if word.attempt < known.attempt:
        return None
    if word.attempt == known.attempt and (
        known.status in ENDED or not (ended or unsaved or bill.cost_nanousd)
    ):
        return None
    keeps = word.status in _KEPT
    return Correction(
        status=word.status if keeps else Status.PENDING,
        attempt=word.attempt if keeps else word.attempt + 1,
        ended_at=word.at if keeps else None,
        error=word.error if keeps else None,
        bill=bill,
        doubted=tuple(unsaved),
        was_done=word.status is Status.DONE,
    )


@dataclass(slots=True, kw_only=True)
class RecoverySummary:
    """What a recovery has found, for the operator."""

    requests: int = 0
    missing: int = 0
    """Accepted, and without a row."""
    ended: int = 0
    """Had failed or were cancelled, and are so again."""
    requeued: int = 0
    written_again: int = 0
    """Of those requeued, the ones that were done."""
    lost_nanousd: int = 0
    """What answers had cost that are gone."""
    in_doubt: int = 0
    """Steps that were paid for and are gone, at a price that nobody has told."""
    unknown: int = 0
    """Jobs that were spoken of, and have neither a row nor a request."""

    def told(self) -> str:
        return "\n".join(
            (
                f"{self.requests} requests read, {self.missing} of them had no row: brought back",
                f"{self.ended} jobs had failed or were cancelled since the backup: they stay so",
                f"{self.requeued} jobs had gone on since the backup and are back in the queue, {self.written_again} of"
                " them were done: written and paid for again",
                f"{self.lost_nanousd / 1e9:.4f} dollars had been paid for answers that are gone (on the jobs' bills);"
                f" {self.in_doubt} more steps had been paid for, at a price that nobody told (inDoubt)",
                f"{self.unknown} jobs are known by events alone: their requests are older than what was read",
            )
        )

    def count(self, corrections: Iterable[Correction]) -> None:
        for correction in corrections:
            self.ended += correction.status in ENDED
            self.requeued += correction.status is Status.PENDING
            self.written_again += correction.was_done
            self.lost_nanousd += correction.bill.cost_nanousd
            self.in_doubt += len(correction.doubted)


def _difference(total: Usage, saved: Usage) -> Usage:
    return Usage(
        input_tokens=max(total.input_tokens - saved.input_tokens, 0),
        output_tokens=max(total.output_tokens - saved.output_tokens, 0),
        images=max(total.images - saved.images, 0),
        cost_nanousd=max(total.cost_nanousd - saved.cost_nanousd, 0),
    )
