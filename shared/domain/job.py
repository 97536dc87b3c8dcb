"""The life of a job: its statuses and the legal transitions between them.

A job is one blog post requested by one store. Its status is the column `blog_generations.status`.
"""

from enum import StrEnum


class Status(StrEnum):
    """Status of a job. The values appear in SQL and in clients' JSON."""

    PENDING = "PENDING"
    """Admitted and waiting, dispatched to a worker or not."""
    PROCESSING = "PROCESSING"
    """Claimed by a worker, which holds a lease."""
    DONE = "DONE"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    """Reserved in the released API. No job has this status."""
    CANCELLED = "CANCELLED"


class Step(StrEnum):
    """The steps of a job, in their order."""

    OUTLINE = "outline"
    ARTICLE = "article"
    IMAGE = "image"
    ASSEMBLE = "assemble"


class SourceType(StrEnum):
    KEYWORD = "keyword"
    PRODUCT = "product"
    TOPIC = "topic"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.PROCESSING, Status.CANCELLED}),
    Status.PROCESSING: frozenset({Status.DONE, Status.FAILED, Status.PENDING, Status.CANCELLED}),
    Status.FAILED: frozenset({Status.PENDING}),  # a user's retry
    Status.CANCELLED: frozenset({Status.PENDING}),  # a user's retry
    Status.DONE: frozenset(),
    Status.REJECTED: frozenset(),
}

ENDED = frozenset(Status) - {Status.PENDING, Status.PROCESSING}


class IllegalTransitionError(Exception):
    """A status change that `TRANSITIONS` does not allow."""


def sources_of(target: Status) -> frozenset[Status]:
    """The statuses from which a job may go to `target`."""
    return frozenset(status for status, targets in TRANSITIONS.items() if target in targets)


def check_transition(current: Status, target: Status) -> Status:
    """Return `target`. `IllegalTransitionError` when a job in `current` may not go there."""
    if target not in TRANSITIONS[current]:
        raise IllegalTransitionError(f"a job that is {current} cannot become {target}")
    return target


CANCELLABLE = sources_of(Status.CANCELLED)
"""Statuses in which a user may cancel a job."""
RETRIABLE = sources_of(Status.PENDING) & ENDED
"""Statuses in which a user may retry a job."""
