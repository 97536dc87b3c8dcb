"""What the interface answers, as values. `raw` has everything, also what later versions add."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

ENDED = frozenset({"DONE", "FAILED", "REJECTED", "CANCELLED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    title: str
    slug: str
    meta_description: str
    html: str
    image_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it was at one moment. What a fresh one does not have yet is None."""

    id: str
    store: str | None
    status: str
    source_type: str
    source_id: str
    created_at: datetime | None
    attempts: int
    cost_usd: float
    error: str | None
    post: Post | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How a store stands this month. Without a budget, what only a budget has is None."""

    store: str
    monthly_cost_usd: float | None
    spent_usd: float
    reserved_usd: float
    remaining_usd: float | None
    state: str
    """ok, warning or stopped."""
    resets_at: datetime
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One of a stream: `job` carries the job, `progress` what has happened."""

    name: str
    data: Mapping[str, Any]


def job_of(found: Mapping[str, Any]) -> Job:
    post, error = found.get("post"), found.get("error")
    return Job(
        id=found["id"], store=found.get("store"), status=found["status"], source_type=found["sourceType"],
        source_id=found["sourceId"],
        created_at=datetime.fromisoformat(found["createdAt"]) if "createdAt" in found else None,
        attempts=found.get("attempts", 0), cost_usd=found.get("costUsd", 0.0),
        error=error["message"] if error else None, post=_post(post) if post else None, raw=found,
    )  # fmt: skip


def budget_of(found: Mapping[str, Any]) -> Budget:
    return Budget(
        store=found["store"], monthly_cost_usd=found["monthlyCostUsd"], spent_usd=found["spentUsd"],
        reserved_usd=found["reservedUsd"], remaining_usd=found["remainingUsd"], state=found["state"],
        resets_at=datetime.fromisoformat(found["resetsAt"]), raw=found,
    )  # fmt: skip


def _post(found: Mapping[str, Any]) -> Post:
    return Post(
        title=found["title"], slug=found["slug"], meta_description=found["metaDescription"], html=found["html"],
        image_url=found["imageUrl"],
    )  # fmt: skip
