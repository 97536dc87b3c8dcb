"""The words of the interface for a waiting job: released, so they never change."""

from enum import StrEnum


class WaitReason(StrEnum):
    """Why a PENDING job has not started. Clients read it as `waiting.reason` and `limitedBy`."""

    NOT_BEFORE = "not before"
    """Its `runAt` is in the future."""
    DISPATCHED = "on its way to a worker"
    FAIR_TURN = "fair turn"
    """Other accounts have a smaller virtual time."""
    ACCOUNT_SHARE = "account share"
    """Another store of the same account goes first."""
    STORE_CAP = "store cap"
    """The store has the most jobs in flight that it may have while others wait."""
    BUDGET = "budget"
    """The store's monthly budget has no room."""
    NO_WORKER = "no worker"
    NO_FREE_SLOT = "back-pressure"
    """Every slot of every worker is taken."""
    REQUESTS = "RPM"
    TOKENS = "TPM"
    IMAGES = "image budget"
    COOLING_DOWN = "provider cooling down"
    UNAVAILABLE = "provider unavailable"
    """A circuit breaker is open."""
