"""How far a store's budget goes: money in nano-USD, `room` is what is neither spent nor reserved.

A job is reserved for when it is forwarded, at what jobs of its store cost on average; its real cost replaces that.
None for room: the store has no budget.
"""


def fits_budget(room: int | None, cost: int) -> bool:
    """Whether a job of this cost may go."""
    return room is None or cost <= room


def count_fitting(jobs: int, room: int | None, cost: int) -> int:
    """How many of these jobs may go, each of this cost."""
    return jobs if room is None else max(0, min(jobs, room // cost))


def reservable_budget(*, monthly: int, spent: int, unsettled: int) -> int:
    """What a store may reserve in all. `spent` is what the ledger has of this month. It counts what running jobs have
    paid for already (`unsettled`), which is reserved for until they are settled, and must not count twice."""
    return monthly - (spent - unsettled)
