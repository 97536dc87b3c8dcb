"""A simulated job, and one call that it makes to a provider."""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.simulation.system.providers import ReportedLevel
    from sandbox.simulation.system.worker import SimulatedWorker
    from services.generator.quota.rules import Reservation


class JobStep(IntEnum):
    OUTLINE = 0
    ARTICLE = 1
    IMAGE = 2
    READ = 3
    """A read of the image's prediction."""


class SimulatedJob:
    """A requested post. The saved steps survive the worker, the rest belongs to one attempt."""

    __slots__ = (
        "attempts",
        "branches",
        "cost_factor",
        "counted_attempts",
        "ended_at",
        "error",
        "kind",
        "needs_image",
        "number",
        "partition",
        "permit_rank",
        "priority",
        "requested_at",
        "saved",
        "spent",
        "started_at",
        "store",
    )

    def __init__(
        self,
        number: int,
        store: str,
        kind: int,
        *,
        requested_at: float,
        needs_image: bool,
        priority: int = 0,
        cost_factor: float = 1.0,
    ) -> None:
        self.number = number
        self.store = store
        self.kind = kind
        """The class of its store."""
        self.requested_at = requested_at
        self.needs_image = needs_image
        """Whether the image is wanted and not saved yet."""
        self.priority = priority
        self.cost_factor = cost_factor
        self.started_at: float | None = None
        """Of its first attempt."""
        self.ended_at: float | None = None
        self.permit_rank = 0.0
        """By the fair queue, when it was dispatched."""
        self.attempts = 0
        self.counted_attempts = 0
        self.saved = 0
        """How many text steps are saved: the outline, then the article."""
        self.spent = 0
        """Nano-USD spent since the last settlement."""
        self.partition = -1
        self.branches = 0
        """The steps in progress in this attempt."""
        self.error: Exception | None = None
        """The first error of this attempt."""


class ProviderCall:
    """One call of a job. Times are of the virtual clock."""

    __slots__ = (
        "headers",
        "job",
        "read_at",
        "ready_at",
        "requested_at",
        "reservation",
        "step",
        "worker",
    )

    def __init__(self, job: SimulatedJob, step: JobStep, worker: "SimulatedWorker") -> None:
        self.job = job
        self.step = step
        self.worker = worker
        self.reservation: Reservation | None = None
        self.requested_at = 0.0
        """When the call began, after its permit."""
        self.headers: tuple[ReportedLevel, ...] = ()
        """What the provider reports of the time of its decision."""
        self.ready_at = 0.0
        """When the prediction has ended."""
        self.read_at = 0.0
        """The pause before the next read, in seconds."""
