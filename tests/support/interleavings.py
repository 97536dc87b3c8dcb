"""Plans of clients' calls and service failures, and a ledger of the answers to those calls.

A plan is a list of moments. A moment is either calls of stores, all at once, or one event that
happens to a service.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import httpx
from hypothesis import strategies as st

from tests.support.scripted_provider import ProviderBehavior

SHOPS = 2
_AT_ONCE = 6
_BULKS_AT_ONCE = 2
"""Bulk calls of one store at one ingest process; one more is answered with 429."""


@dataclass(frozen=True)
class SinglePost:
    shop: int
    via: int
    requested_behavior: str
    key: int | None


@dataclass(frozen=True)
class Bulk:
    shop: int
    via: int
    requested_behaviors: tuple[str, ...]
    key: int | None
    lines: bool


@dataclass(frozen=True)
class Change:
    """Cancels and retries, one after another, of the store's `back`th job from its last one."""

    actions: tuple[str, ...]
    shop: int
    via: int
    back: int


Act: TypeAlias = SinglePost | Bulk | Change
Event: TypeAlias = Literal[
    "a call begins",
    "all has ended",
    "the scheduler is replaced",
    "ingest 0 restarts",
    "ingest 1 restarts",
    "the worker restarts",
    "the worker dies",
]
_EVENTS: tuple[Event, ...] = get_args(Event)
Moment: TypeAlias = list[Act] | Event
Plan: TypeAlias = list[Moment]


def draw_plans(moments: int) -> st.SearchStrategy[Plan]:
    """Draw plans of up to `moments` moments."""
    return _up_to(moments, _up_to(_AT_ONCE, _acts()) | st.sampled_from(_EVENTS))


def _acts() -> st.SearchStrategy[Act]:
    place: dict[str, Any] = {"shop": st.integers(0, SHOPS - 1), "via": st.integers(0, 1)}
    requested_behavior = st.sampled_from([behavior.value for behavior in ProviderBehavior])
    key = st.none() | st.integers(0, 1)
    requested_behaviors = st.lists(requested_behavior, min_size=1, max_size=4).map(tuple)
    action = st.sampled_from(["cancel", "retry"])
    back = st.integers(0, 3)
    return st.one_of(
        st.builds(SinglePost, **place, requested_behavior=requested_behavior, key=key),
        st.builds(
            Bulk, **place, requested_behaviors=requested_behaviors, key=key, lines=st.booleans()
        ),
        st.builds(Change, st.lists(action, min_size=1, max_size=4).map(tuple), **place, back=back),
    )


def _up_to(most: int, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw lists that are mostly long and still shrink: an element drawn as None is left out."""
    drawn = st.lists(st.none() | elements, min_size=most, max_size=most)
    return drawn.map(lambda found: [element for element in found if element])


@dataclass
class Ledger:
    """The answers to all calls.

    `record` checks every answer; `check_idempotency_keys` checks the answers to each key together.
    """

    requested_behaviors: dict[UUID, str] = field(default_factory=dict)
    """By accepted job: every job that got a 201."""
    changed: defaultdict[str, Counter[UUID]] = field(default_factory=lambda: defaultdict(Counter))
    """By "cancel" and "retry": how often each job was."""
    _accepted: defaultdict[int, list[UUID]] = field(default_factory=lambda: defaultdict(list))
    _keyed: defaultdict[tuple[int, int], list[tuple[object, tuple[UUID, ...] | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By store and Idempotency-Key: the body, and the jobs it created; None when it was refused."""

    def job(self, act: Act) -> UUID | None:
        """Return the job that the call changes, if any."""
        accepted = self._accepted[act.shop]
        return (
            accepted[-1 - act.back % len(accepted)]
            if accepted and isinstance(act, Change)
            else None
        )

    def record(self, acts: Sequence[Act], answers: Sequence[Sequence[httpx.Response]]) -> None:
        """Record and check the answers to simultaneous calls."""
        bulks = Counter((act.shop, act.via) for act in acts if isinstance(act, Bulk))
        for act, received in zip(acts, answers, strict=True):
            if isinstance(act, Change):
                self._record_change(act, received)
            elif received[0].status_code == 429:
                assert isinstance(act, Bulk), received[0].text
                assert bulks[act.shop, act.via] > _BULKS_AT_ONCE, received[0].text
            else:
                self._record_request(act, received[0])

    def _record_change(self, act: Change, answers: Sequence[httpx.Response]) -> None:
        for action, answer in zip(act.actions, answers, strict=False):
            # 503: no scheduler has admitted the job yet.
            assert answer.status_code in (200, 404, 409, 503), answer.text
            if answer.status_code == 200:
                self.changed[action][UUID(answer.json()["id"])] += 1

    def _record_request(self, act: SinglePost | Bulk, answer: httpx.Response) -> None:
        assert answer.status_code == 201 or (answer.status_code == 422 and act.key is not None), (
            answer.text
        )
        sent = act.requested_behaviors if isinstance(act, Bulk) else act.requested_behavior
        jobs: tuple[UUID, ...] | None = None
        if answer.status_code == 201:
            items = answer.json()["items"] if isinstance(act, Bulk) else [answer.json()]
            jobs = tuple(UUID(item["id"]) for item in items)
            requested_behaviors = (
                act.requested_behaviors if isinstance(act, Bulk) else [act.requested_behavior]
            )
            for job, requested_behavior in zip(jobs, requested_behaviors, strict=True):
                if job not in self.requested_behaviors:
                    self._accepted[act.shop].append(job)
                    self.requested_behaviors[job] = requested_behavior
        if act.key is None:
            assert jobs is not None
        else:
            self._keyed[act.shop, act.key].append((sent, jobs))

    def check_idempotency_keys(self) -> None:
        """Check that one call won each key.

        Calls with the same body got its jobs, and all others were refused.
        """
        for key, uses in self._keyed.items():
            won = [use for use in uses if use[1] is not None]
            assert won, (key, uses)
            for sent, jobs in uses:
                assert jobs == (won[0][1] if sent == won[0][0] else None), (key, uses)
        calls = {jobs for uses in self._keyed.values() for _, jobs in uses if jobs}
        distinct = {job for jobs in calls for job in jobs}
        assert sum(map(len, calls)) == len(distinct), "a job belongs to two keys"
