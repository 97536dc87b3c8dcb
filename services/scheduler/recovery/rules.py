"""Finds the corrections of a database restored from a backup, by the events that Kafka still has.

Services write rows before they publish events. A database that lost nothing is therefore never
behind the events, and nothing is corrected.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from shared.domain.job import ENDED, Status
from shared.domain.messages import EventKind, JobEvent, Usage

_NO_USAGE = Usage()
_FINAL = ENDED - {Status.DONE}
"""Final states that a restore can set again. A finished post, in contrast, is lost with its row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedState:
    """A job's latest state according to its events."""

    attempt: int
    status: Status
    at: datetime
    error: str | None
    usage: Usage
    """The highest reported usage."""
    unbilled: frozenset[str]
    """Steps completed after the last reported usage: their cost is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A job's state in the database."""

    attempt: int
    status: Status
    done: frozenset[str]
    """Steps with a saved result."""
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The corrected state of a job.

    `attempt` is higher than all reported attempts, so events stay in order and old workers are
    fenced off.
    """

    status: Status
    attempt: int
    ended_at: datetime | None
    error: str | None
    lost_usage: Usage
    """Usage of lost results."""
    in_doubt: tuple[str, ...]
    """Steps with a lost result and an unknown cost."""
    was_done: bool


def merge_event(state: ReportedState | None, event: JobEvent) -> ReportedState | None:
    """Return the latest state after this event. Events may come in any order."""
    if event.kind is EventKind.ADMITTED:
        return state
    usage, unbilled = (
        (state.usage, state.unbilled) if state is not None else (_NO_USAGE, frozenset[str]())
    )
    if event.usage.cost_nanousd > usage.cost_nanousd or event.kind is EventKind.ENDED:
        unbilled = frozenset()
    if event.usage.cost_nanousd > usage.cost_nanousd:
        usage = event.usage
    if event.kind is EventKind.STEP_DONE and event.step is not None:
        unbilled |= {event.step}
    latest: ReportedState | JobEvent = event
    if state is not None and _state_rank(state) > _state_rank(event):
        latest = state
    return ReportedState(
        attempt=latest.attempt,
        status=latest.status,
        at=latest.at,
        error=latest.error,
        usage=usage,
        unbilled=unbilled,
    )


def _state_rank(state: ReportedState | JobEvent) -> tuple[int, bool, datetime]:
    return state.attempt, state.status in ENDED, state.at


def find_correction(saved: SavedState, reported: ReportedState) -> Correction | None:
    """Return the correction of a job; `None` when the database is not behind the events.

    A failed or cancelled job keeps its state. A finished post is lost, so the job returns to the
    queue.
    """
    lost_usage = _usage_difference(reported.usage, saved.usage)
    ended = reported.status in ENDED
    unsaved = sorted(reported.unbilled - saved.done)
    if reported.attempt < saved.attempt:
        return None
    if reported.attempt == saved.attempt and (
        saved.status in ENDED or not (ended or unsaved or lost_usage.cost_nanousd)
    ):
        return None
    final = reported.status in _FINAL
    return Correction(
        status=reported.status if final else Status.PENDING,
        attempt=reported.attempt if final else reported.attempt + 1,
        ended_at=reported.at if final else None,
        error=reported.error if final else None,
        lost_usage=lost_usage,
        in_doubt=tuple(unsaved),
        was_done=reported.status is Status.DONE,
    )


@dataclass(slots=True, kw_only=True)
class RecoverySummary:
    """The findings of a recovery, for the operator."""

    requests: int = 0
    missing: int = 0
    """Accepted requests without a row."""
    ended: int = 0
    """Jobs that failed or were cancelled after the backup."""
    requeued: int = 0
    written_again: int = 0
    """Requeued jobs that were done."""
    lost_nanousd: int = 0
    """The cost of lost results."""
    in_doubt: int = 0
    """Steps with a lost result and an unknown cost."""
    unknown: int = 0
    """Jobs with events, but without a row or a request."""

    def as_text(self) -> str:
        return "\n".join(
            (
                f"{self.requests} requests read, {self.missing} of them had no row: restored",
                f"{self.ended} jobs failed or were cancelled after the backup: state restored",
                f"{self.requeued} jobs ran after the backup and are back in the queue,"
                f" {self.written_again} of them were done: written and paid for again",
                f"{self.lost_nanousd / 1e9:.4f} dollars were paid for lost results (on the jobs'"
                f" bills); {self.in_doubt} more steps were paid for at an unknown cost (inDoubt)",
                f"{self.unknown} jobs are known by events alone: their requests are older than the"
                " records read",
            )
        )

    def count_corrections(self, corrections: Iterable[Correction]) -> None:
        for correction in corrections:
            self.ended += correction.status in ENDED
            self.requeued += correction.status is Status.PENDING
            self.written_again += correction.was_done
            self.lost_nanousd += correction.lost_usage.cost_nanousd
            self.in_doubt += len(correction.in_doubt)


def _usage_difference(total: Usage, saved: Usage) -> Usage:
    return Usage(
        input_tokens=max(total.input_tokens - saved.input_tokens, 0),
        output_tokens=max(total.output_tokens - saved.output_tokens, 0),
        reasoning_tokens=max(total.reasoning_tokens - saved.reasoning_tokens, 0),
        images=max(total.images - saved.images, 0),
        cost_nanousd=max(total.cost_nanousd - saved.cost_nanousd, 0),
    )
