"""Monthly budgets: whether a job fits. All money is in nano-USD.

Dispatch reserves the store's mean cost for a job; settlement replaces it with the real cost. A
budget's remainder is neither spent nor reserved; it is `None` for a store without a budget.
"""


def fits_budget(remaining: int | None, cost: int) -> bool:
    """Return whether a job of this cost fits."""
    return remaining is None or cost <= remaining


def count_affordable(jobs: int, remaining: int | None, cost: int) -> int:
    """Count how many of the jobs fit if each has this cost."""
    return jobs if remaining is None else max(0, min(jobs, remaining // cost))


def reservable_budget(*, monthly: int, spent: int, unsettled: int) -> int:
    """Return the total money that a store may reserve.

    `spent` is this month's entry in `store_spend`. It includes the payments of jobs in flight
    (`unsettled`). Those jobs still hold reservations, so their payments must not count twice.
    """
    return monthly - (spent - unsettled)
