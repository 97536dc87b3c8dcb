"""A job's life: one table of legal transitions. Whoever writes a status asks it first.

A job is one blog post asked for by one store. PostgreSQL holds what is true of it
(`blog_generations.status`); every service reads the same words from here.
"""

from enum import StrEnum


class Status(StrEnum):
    """Where a job stands. The values are what operators' SQL and clients' JSON say."""

    PENDING = "PENDING"
    """Admitted and waiting, whether or not it was already forwarded to a worker."""
    PROCESSING = "PROCESSING"
    """Claimed by a worker, under a lease."""
    DONE = "DONE"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    """Read from the log but impossible to carry out (never used for queue limits: a 201 is kept)."""
    CANCELLED = "CANCELLED"


class Step(StrEnum):
    """The steps of a blog, in the order in which a reader expects them."""

    OUTLINE = "outline"
    ARTICLE = "article"
    IMAGE = "image"
    ASSEMBLE = "assemble"


class SourceType(StrEnum):
    KEYWORD = "keyword"
    PRODUCT = "product"
    TOPIC = "topic"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset(
        {Status.PROCESSING, Status.CANCELLED, Status.REJECTED, Status.FAILED}
    ),
    Status.PROCESSING: frozenset({Status.DONE, Status.FAILED, Status.PENDING, Status.CANCELLED}),
    Status.FAILED: frozenset({Status.PENDING}),  # retry, asked for by a person
    Status.CANCELLED: frozenset({Status.PENDING}),  # the same
    Status.DONE: frozenset(),
    Status.REJECTED: frozenset(),
}

ENDED = frozenset({Status.DONE, Status.FAILED, Status.REJECTED, Status.CANCELLED})

CANCELLABLE = frozenset(
    status for status, targets in TRANSITIONS.items() if Status.CANCELLED in targets
)
"""What a person may cancel."""
RETRIABLE = frozenset(status for status in ENDED if Status.PENDING in TRANSITIONS[status])
"""What a person may ask for again."""


class IllegalTransitionError(Exception):
    """A status change that no part of the system may make."""


def move(current: Status, target: Status) -> Status:
    """Return `target`, or raise `IllegalTransitionError` when a job in `current` may not go there."""
    if target not in TRANSITIONS[current]:
        raise IllegalTransitionError(f"a job that is {current} cannot become {target}")
    return target
