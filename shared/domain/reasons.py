"""The words of the interface for a waiting job: released, so they never change.

Four modules choose among them:
- `services/scheduler/messages.py` (`_limiting_cause`) names the provider limit of one worker;
- `services/scheduler/dispatch/rules.py` names why no worker accepts a job;
- `services/scheduler/estimates/rules.py` chooses the reason of a store;
- `services/ingest/jobs/rules.py` chooses the reason of one job, for its client.
"""

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
