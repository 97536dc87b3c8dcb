"""Rejects messages that fit their schema but would stop or falsify the counting."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from shared.domain.errors import InvalidMessage
from shared.domain.messages import JobEvent, Message, SchedulerReport, WorkerReport

M = TypeVar("M", bound=Message)

_AHEAD = timedelta(hours=1)
"""The tolerated difference between clocks.

A later time would push all true numbers out of the windows.
"""
_MAX_NUMBER = 2**53
"""The largest count or cost, because JSON numbers are exact up to here."""


def validate_message(message: Message, now: datetime, *kinds: type[M]) -> M:
    """Return the message if it is of one of these kinds and plausible.

    Raises `InvalidMessage` otherwise.
    """
    if not isinstance(message, kinds):
        raise InvalidMessage(f"{message.TYPE} does not belong on this topic")
    reason = rejection_reason(message, now)
    if reason is not None:
        raise InvalidMessage(f"{message.TYPE}: {reason}")
    return message


def rejection_reason(message: Message, now: datetime) -> str | None:
    """Return why a message is invalid, or `None` for a valid one."""
    times = list(_times(message))
    if any(time.tzinfo is None for time in times):
        return "a time without a zone"
    if message.created() > now + _AHEAD:
        return "from the future"
    if isinstance(message, JobEvent):
        usage = message.usage
        numbers = (
            message.attempt,
            usage.input_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.images,
            usage.cost_nanousd,
            usage.in_doubt,
        )
        if min(numbers) < 0 or max(numbers) > _MAX_NUMBER:
            return "a number out of bounds"
    return None


def _times(message: Message) -> Iterator[datetime]:
    found: tuple[datetime | None, ...] = ()
    if isinstance(message, JobEvent):
        former_at = message.former.at if message.former is not None else None
        found = (
            message.at,
            message.created_at,
            message.started_at,
            message.forwarded_at,
            former_at,
        )
    elif isinstance(message, WorkerReport):
        found = (
            message.at,
            message.started_at,
            *(state.cooling_until for state in message.limiters),
        )
    elif isinstance(message, SchedulerReport):
        fairness = message.fairness
        found = (
            message.at,
            message.oldest_pending_at,
            fairness.began_at if fairness is not None else None,
        )
    return (time for time in found if time is not None)
