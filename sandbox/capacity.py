"""How many workers a load needs, and what the account allows: the arithmetic behind docs/scaling.md. Pure."""

from dataclasses import dataclass
from math import ceil

from shared.kafka.topics import GENERATION


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLimits:
    """What the providers allow a minute."""

    openai_rpm: float
    openai_tpm: float
    replicate_rpm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BlogDemand:
    """What one blog takes."""

    seconds: float
    """From its claim to its end, waits for limits left out."""
    calls: float
    """Of the text provider."""
    tokens: float
    """That the text provider charges, prompts and answers together."""
    images: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlan:
    ceilings: dict[str, float]
    """Blogs a minute that each limit allows."""
    limited_by: str
    """The tightest limit, or `nothing` when what is wanted fits."""
    blogs_per_minute: float
    """What can be written: what is wanted, or the tightest limit."""
    slots: float
    """Blogs at work at once (Little's law)."""
    workers: int
    """Processes that give so many slots; more than one a partition have no budget."""
    enough: bool
    """Whether that many workers can carry it."""


def plan_capacity(wanted: float, account: ProviderLimits, blog: BlogDemand, *, concurrent: int) -> CapacityPlan:
    """For `wanted` blogs a minute, with `concurrent` slots a worker."""
    ceilings = {
        "OPENAI_RPM": _ceiling(account.openai_rpm, blog.calls),
        "OPENAI_TPM": _ceiling(account.openai_tpm, blog.tokens),
        "REPLICATE_RPM": _ceiling(account.replicate_rpm, blog.images),
    }
    tightest = min(ceilings, key=lambda name: ceilings[name])
    written = min(wanted, ceilings[tightest])
    slots = written * blog.seconds / 60
    workers = max(1, ceil(slots / concurrent))
    return CapacityPlan(
        ceilings=ceilings,
        limited_by=tightest if ceilings[tightest] < wanted else "nothing",
        blogs_per_minute=written,
        slots=slots,
        workers=min(workers, GENERATION.partitions),
        enough=workers <= GENERATION.partitions,
    )


def _ceiling(limit: float, need: float) -> float:
    return limit / need if need else float("inf")
