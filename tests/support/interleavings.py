"""Plans of what shops do and of what happens to the services meanwhile, and the books of what the shops were answered.

A plan is a list of moments, one after another: acts of shops, all at once, or something that happens to a service.
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
"""Of one shop at one ingest process: one more is 429."""


@dataclass(frozen=True)
class Post:
    shop: int
    via: int
    wish: str
    key: int | None


@dataclass(frozen=True)
class Bulk:
    shop: int
    via: int
    wishes: tuple[str, ...]
    key: int | None
    lines: bool


@dataclass(frozen=True)
class Change:
    """One thing after another that is done to the shop's job that is the `back`th from its last one."""

    what: tuple[str, ...]
    shop: int
    via: int
    back: int


Act: TypeAlias = Post | Bulk | Change
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
    """Plans of up to so many moments."""
    return _up_to(moments, _up_to(_AT_ONCE, _acts()) | st.sampled_from(_EVENTS))


def _acts() -> st.SearchStrategy[Act]:
    who: dict[str, Any] = {"shop": st.integers(0, SHOPS - 1), "via": st.integers(0, 1)}
    wish = st.sampled_from([wish.value for wish in ProviderBehavior])
    key = st.none() | st.integers(0, 1)
    wishes = st.lists(wish, min_size=1, max_size=4).map(tuple)
    what = st.sampled_from(["cancel", "retry"])
    back = st.integers(0, 3)
    return st.one_of(
        st.builds(Post, **who, wish=wish, key=key),
        st.builds(Bulk, **who, wishes=wishes, key=key, lines=st.booleans()),
        st.builds(Change, st.lists(what, min_size=1, max_size=4).map(tuple), **who, back=back),
    )


def _up_to(most: int, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists that are mostly long, and shrink all the same: what is left out of them is drawn as None."""
    drawn = st.lists(st.none() | elements, min_size=most, max_size=most)
    return drawn.map(lambda found: [element for element in found if element])


@dataclass
class Ledger:
    """What the shops were answered. Every answer is judged as it is noted; `judge_keys` looks at all of them."""

    wishes: dict[UUID, str] = field(default_factory=dict)
    """Of all jobs that got a 201."""
    changed: defaultdict[str, Counter[UUID]] = field(default_factory=lambda: defaultdict(Counter))
    """By "cancel" and "retry": how often a job was."""
    _taken: defaultdict[int, list[UUID]] = field(default_factory=lambda: defaultdict(list))
    _keyed: defaultdict[tuple[int, int], list[tuple[object, tuple[UUID, ...] | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By shop and Idempotency-Key: what was sent, and the jobs that it is; None when it was refused."""

    def job(self, act: Act) -> UUID | None:
        """Which one the act changes, if any."""
        taken = self._taken[act.shop]
        return taken[-1 - act.back % len(taken)] if taken and isinstance(act, Change) else None

    def note(self, acts: Sequence[Act], answers: Sequence[Sequence[httpx.Response]]) -> None:
        """What acts at once were answered."""
        bulks = Counter((act.shop, act.via) for act in acts if isinstance(act, Bulk))
        for act, heard in zip(acts, answers, strict=True):
            if isinstance(act, Change):
                self._note_change(act, heard)
            elif heard[0].status_code == 429:
                assert isinstance(act, Bulk), heard[0].text
                assert bulks[act.shop, act.via] > _BULKS_AT_ONCE, heard[0].text
            else:
                self._note_request(act, heard[0])

    def _note_change(self, act: Change, answers: Sequence[httpx.Response]) -> None:
        for what, answer in zip(act.what, answers, strict=False):
            assert answer.status_code in (200, 404, 409, 503), (
                answer.text
            )  # 503: no scheduler has admitted it yet
            if answer.status_code == 200:
                self.changed[what][UUID(answer.json()["id"])] += 1

    def _note_request(self, act: Post | Bulk, answer: httpx.Response) -> None:
        assert answer.status_code == 201 or (answer.status_code == 422 and act.key is not None), (
            answer.text
        )
        sent = act.wishes if isinstance(act, Bulk) else act.wish
        jobs: tuple[UUID, ...] | None = None
        if answer.status_code == 201:
            items = answer.json()["items"] if isinstance(act, Bulk) else [answer.json()]
            jobs = tuple(UUID(item["id"]) for item in items)
            for job, wish in zip(
                jobs, act.wishes if isinstance(act, Bulk) else [act.wish], strict=True
            ):
                if job not in self.wishes:
                    self._taken[act.shop].append(job)
                    self.wishes[job] = wish
        if act.key is None:
            assert jobs is not None
        else:
            self._keyed[act.shop, act.key].append((sent, jobs))

    def judge_keys(self) -> None:
        """One of those who used a key at once won; who sent the same is answered with its jobs, and all others with
        none."""
        for key, uses in self._keyed.items():
            won = [use for use in uses if use[1] is not None]
            assert won, (key, uses)
            for sent, jobs in uses:
                assert jobs == (won[0][1] if sent == won[0][0] else None), (key, uses)
        calls = {jobs for uses in self._keyed.values() for _, jobs in uses if jobs}
        assert sum(map(len, calls)) == len({job for jobs in calls for job in jobs}), (
            "no job is of two keys"
        )
