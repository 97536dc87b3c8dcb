"""Computes the workers that a load needs and the limits of the provider accounts. Pure.

docs/scaling.md explains the arithmetic.
"""

from dataclasses import dataclass
from math import ceil

from shared.domain.quota_layout import QuotaLayout, count_carried_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLimits:
    """The rate limits of the provider accounts, per minute."""

    openai_rpm: float
    openai_tpm: float
    replicate_rpm: float
    largest_call_tokens: float = 1
    """The most tokens that one call of the text provider reserves."""

    def carried_calls(self) -> dict[str, int]:
        """Return how many calls of the largest size each limit carries at once."""
        return {
            "OPENAI_RPM": count_carried_calls(self.openai_rpm, 1),
            "OPENAI_TPM": count_carried_calls(self.openai_tpm, self.largest_call_tokens),
            "REPLICATE_RPM": count_carried_calls(self.replicate_rpm, 1),
        }


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


USUAL_BLOG = BlogDemand(seconds=100, calls=2, tokens=5_500, images=1)
STANDIN_BLOG = BlogDemand(seconds=10, calls=2, tokens=5_500, images=1)
"""The stand-ins answer within a few seconds."""


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
    """Workers that provide the slots, at most one for each partition that carries quota for texts:
    others get no jobs."""
    enough: bool
    """True if these workers provide all slots."""
    text_partitions: int
    """The partitions that carry the text provider's quota."""
    image_partitions: int
    too_small: tuple[str, ...]
    """The limits that cannot carry one call: a worker does not start with them."""


def plan_capacity(
    wanted: float, limits: ProviderLimits, blog: BlogDemand, *, concurrent: int, partitions: int
) -> CapacityPlan:
    """Plan for `wanted` blogs per minute with `concurrent` slots per worker."""
    ceilings = _ceilings(limits, blog)
    calls = limits.carried_calls()
    layout = QuotaLayout(partitions=partitions, calls=calls)
    carrying = len(layout.carrying_partitions(("OPENAI_RPM", "OPENAI_TPM")))
    tightest = min(ceilings, key=lambda name: ceilings[name])
    achievable = min(wanted, ceilings[tightest])
    slots = achievable * blog.seconds / 60
    workers = max(1, ceil(slots / concurrent))
    return CapacityPlan(
        ceilings=ceilings,
        limited_by=tightest if ceilings[tightest] < wanted else "nothing",
        blogs_per_minute=achievable,
        slots=slots,
        workers=min(workers, carrying),
        enough=workers <= carrying,
        text_partitions=carrying,
        image_partitions=len(layout.carrying_partitions(("REPLICATE_RPM",))),
        too_small=tuple(name for name, carried in calls.items() if not carried),
    )


def estimate_run(blogs: int, limits: ProviderLimits, blog: BlogDemand) -> tuple[float, str]:
    """Return the seconds until the last of these blogs ends, and the limit that decides.

    Assumes that there are slots for all blogs.
    """
    ceilings = _ceilings(limits, blog)
    tightest = min(ceilings, key=lambda name: ceilings[name])
    return blogs / ceilings[tightest] * 60 + blog.seconds, tightest


def _ceilings(limits: ProviderLimits, blog: BlogDemand) -> dict[str, float]:
    return {
        "OPENAI_RPM": _ceiling(limits.openai_rpm, blog.calls),
        "OPENAI_TPM": _ceiling(limits.openai_tpm, blog.tokens),
        "REPLICATE_RPM": _ceiling(limits.replicate_rpm, blog.images),
    }


def _ceiling(limit: float, need: float) -> float:
    return limit / need if need else float("inf")
