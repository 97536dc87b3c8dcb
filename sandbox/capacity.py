"""Computes the workers that a load needs and the limits of the provider accounts. Pure.

docs/scaling.md explains the arithmetic.
"""

from dataclasses import dataclass
from math import ceil

from shared.kafka.topics import GENERATION


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLimits:
    """The rate limits of the provider accounts, per minute."""

    openai_rpm: float
    openai_tpm: float
    replicate_rpm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BlogDemand:
    """The resources that one blog needs."""

    seconds: float
    """From claim to end, without waits for rate limits."""
    calls: float
    """Calls of the text provider."""
    tokens: float
    """Tokens billed by the text provider, input and output."""
    images: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlan:
    ceilings: dict[str, float]
    """Blogs per minute that each limit allows."""
    limited_by: str
    """The tightest limit, or `nothing` when all limits allow the wanted rate."""
    blogs_per_minute: float
    """The achievable rate: the wanted rate or the tightest limit."""
    slots: float
    """Blogs in progress at the same time (Little's law)."""
    workers: int
    """Workers that provide the slots, at most one per partition: others own no quota."""
    enough: bool
    """True if these workers provide all slots."""


def plan_capacity(
    wanted: float, limits: ProviderLimits, blog: BlogDemand, *, concurrent: int
) -> CapacityPlan:
    """Plan for `wanted` blogs per minute with `concurrent` slots per worker."""
    ceilings = {
        "OPENAI_RPM": _ceiling(limits.openai_rpm, blog.calls),
        "OPENAI_TPM": _ceiling(limits.openai_tpm, blog.tokens),
        "REPLICATE_RPM": _ceiling(limits.replicate_rpm, blog.images),
    }
    tightest = min(ceilings, key=lambda name: ceilings[name])
    achievable = min(wanted, ceilings[tightest])
    slots = achievable * blog.seconds / 60
    workers = max(1, ceil(slots / concurrent))
    return CapacityPlan(
        ceilings=ceilings,
        limited_by=tightest if ceilings[tightest] < wanted else "nothing",
        blogs_per_minute=achievable,
        slots=slots,
        workers=min(workers, GENERATION.partitions),
        enough=workers <= GENERATION.partitions,
    )


def _ceiling(limit: float, need: float) -> float:
    return limit / need if need else float("inf")
