"""The arrivals of requests: Poisson with stores by Zipf, bursts, or a recorded CSV file.

Arrivals are generated one by one, so ten million of them need no memory.
"""

import csv
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import accumulate
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from shared.domain.errors import Unavailable

_LARGEST, _NEXT = 0.01, 0.1
"""The classes of stores by rank: the largest hundredth, the rest of the first tenth, all others."""
_NO_VALUES = {"0", "false", "f", "no", "off"}
_YES_VALUES = {"1", "true", "t", "yes", "on", ""}


class Arrival(NamedTuple):
    """A request for one post. The order of the fields is the order of arrivals."""

    at: float
    """Seconds since the start."""
    store: str
    kind: int
    """The class of its store, an index of `Workload.classes`."""
    needs_image: bool = True
    priority: int = 0
    cost: float = 1.0
    """The cost of its texts, as a multiple of the usual cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreClass:
    """A class of stores that the report shows in one row."""

    name: str
    stores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """All arrivals in order, and the classes of their stores."""

    arrivals: Iterable[Arrival]
    classes: Sequence[StoreClass]
    posts: int
    stores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """At one moment, `stores` stores ask for `posts` posts each."""

    at: float
    stores: int
    posts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyLoad:
    """Poisson arrivals of `posts` posts at `per_minute`. Stores are chosen by Zipf's law.

    The store of rank n gets requests in proportion to 1 / n ** `zipf`; with 0 all are equal.
    """

    posts: int
    per_minute: float
    stores: int
    zipf: float = 1.0
    images: float = 1.0
    """The part of posts (0 to 1) with an image."""


def generate_workload(steady: SteadyLoad, bursts: Sequence[Burst], rng: random.Random) -> Workload:
    """Combine a steady load with bursts. The stores of each burst are a class of their own."""
    classes = _rank_classes(steady.stores) if steady.posts else []
    streams = [_steady_arrivals(steady, rng)] if steady.posts else []
    for number, burst in enumerate(bursts):
        streams.append(_burst_arrivals(burst, number, len(classes), steady.images, rng))
        classes.append(_burst_class(burst))
    return Workload(
        arrivals=merge(*streams, key=attrgetter("at")),
        classes=classes,
        posts=steady.posts + sum(burst.stores * burst.posts for burst in bursts),
        stores=sum(one.stores for one in classes),
    )


def _rank_classes(stores: int) -> list[StoreClass]:
    largest = max(1, round(stores * _LARGEST))
    following = max(round(stores * _NEXT) - largest, 0)
    sizes = {
        "largest 1 %": largest,
        "next 9 %": following,
        "other stores": stores - largest - following,
    }
    return [StoreClass(name=name, stores=size) for name, size in sizes.items()]


def _burst_class(burst: Burst) -> StoreClass:
    name = f"burst at {burst.at:g} s, {burst.posts} each"
    return StoreClass(name=name, stores=burst.stores)


def _burst_arrivals(
    burst: Burst, number: int, kind: int, images: float, rng: random.Random
) -> Iterator[Arrival]:
    """Yield a burst store by store: whoever comes first has asked for everything."""
    for store in range(burst.stores):
        name = f"burst-{number}-{store:07}"
        for _ in range(burst.posts):
            yield Arrival(burst.at, name, kind, images >= 1 or rng.random() < images)


def _steady_arrivals(load: SteadyLoad, rng: random.Random) -> Iterator[Arrival]:
    weights = list(accumulate((rank + 1) ** -load.zipf for rank in range(load.stores)))
    names = [f"store-{rank:07}" for rank in range(load.stores)]
    first, second = (one.stores for one in _rank_classes(load.stores)[:2])
    at, per_s, total = 0.0, load.per_minute / 60, weights[-1]
    for _ in range(load.posts):
        at += rng.expovariate(per_s)
        rank = min(bisect_left(weights, rng.random() * total), load.stores - 1)
        kind = 0 if rank < first else 1 if rank < first + second else 2
        yield Arrival(at, names[rank], kind, load.images >= 1 or rng.random() < load.images)


def read_arrivals(path: Path) -> Workload:
    """Read a recorded CSV file with the columns `at` and `store`.

    `at` is a time in every row, or seconds in every row. Optional columns are `posts`, `images`,
    `priority` and `class`.
    Raises `Unavailable` with the line that is not right.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"{path} cannot be read: {error}") from None
    rows = csv.DictReader(text.splitlines())
    missing = [name for name in ("at", "store") if name not in (rows.fieldnames or ())]
    if missing:
        raise Unavailable(
            f"{path} has no column {' and no column '.join(missing)}: the first line must name the"
            " columns at and store (posts, images, priority and class are optional)"
        )
    recorded = list(_parse_rows(rows, path))
    if not recorded:
        raise Unavailable(f"{path} has no arrivals")
    return _recorded_workload(recorded)


class _Recorded(NamedTuple):
    at: float
    store: str
    posts: int
    needs_image: bool
    priority: int
    label: str
    is_time: bool
    """Whether `at` is a time, and not seconds."""


def _parse_rows(rows: "csv.DictReader[str]", path: Path) -> Iterator[_Recorded]:
    """Parse the rows, and refuse the first one whose `at` is of another form than those before."""
    is_time = None
    for row in rows:
        parsed = _parse_row(row, rows.line_num, path)
        if is_time not in (None, parsed.is_time):
            former = "times" if is_time else "seconds"
            raise Unavailable(
                f"{path}, line {rows.line_num}: at is {row['at']!r}, but the lines before have"
                f" {former}: give a time in every line, or seconds in every line"
            )
        is_time = parsed.is_time
        yield parsed


def _parse_row(row: Mapping[str, str], line: int, path: Path) -> _Recorded:
    def fail(column: str, wanted: str) -> Unavailable:
        return Unavailable(f"{path}, line {line}: {column} is {row[column]!r}, not {wanted}")

    store = (row["store"] or "").strip()
    if not store:
        raise Unavailable(f"{path}, line {line}: store is empty")
    at = _parse_time(row["at"] or "")
    if at is None:
        raise fail("at", "a time like 2026-11-27T08:00:00Z, or seconds")
    posts, priority = _parse_count(row.get("posts"), 1), _parse_count(row.get("priority"), 0)
    if posts is None or posts < 1:
        raise fail("posts", "a whole number above 0")
    if priority is None:
        raise fail("priority", "a whole number")
    images = (row.get("images") or "").strip().lower()
    if images not in _NO_VALUES | _YES_VALUES:
        raise fail("images", "0 or 1")
    label = (row.get("class") or "").strip()
    is_time = _parse_seconds(row["at"]) is None
    return _Recorded(at, store, posts, images not in _NO_VALUES, priority, label, is_time)


def _parse_time(text: str) -> float | None:
    """Return the seconds of a number or of an ISO time, as PostgreSQL writes it too."""
    seconds = _parse_seconds(text)
    if seconds is None:
        try:
            return datetime.fromisoformat(text.strip()).timestamp()
        except ValueError:
            return None
    return seconds if isfinite(seconds) else None


def _parse_seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _parse_count(text: str | None, default: int) -> int | None:
    try:
        return int(text) if text and text.strip() else default
    except ValueError:
        return None


def _recorded_workload(recorded: Sequence[_Recorded]) -> Workload:
    """Order the recorded arrivals, which start at second 0, and divide their stores by size."""
    posts = Counter[str]()
    for row in recorded:
        posts[row.store] += row.posts
    labels = _label_stores(recorded, posts)
    names = sorted(set(labels.values()), key=list(dict.fromkeys(labels.values())).index)
    began = min(row.at for row in recorded)
    arrivals = sorted(
        Arrival(
            row.at - began, row.store, names.index(labels[row.store]), row.needs_image, row.priority
        )
        for row in recorded
        for _ in range(row.posts)
    )
    sizes = Counter(labels.values())
    return Workload(
        arrivals=arrivals,
        classes=[StoreClass(name=name, stores=sizes[name]) for name in names],
        posts=len(arrivals),
        stores=len(labels),
    )


def _label_stores(recorded: Iterable[_Recorded], posts: Counter[str]) -> dict[str, str]:
    """Return each store's class: the one that the file names, else one by its rank."""
    ranks = _rank_classes(len(posts))
    by_rank = [one.name for one in ranks for _ in range(one.stores)]
    labels = {
        store: by_rank[rank]
        for rank, (store, _) in enumerate(sorted(posts.items(), key=lambda item: -item[1]))
    }
    return labels | {row.store: row.label for row in recorded if row.label}
