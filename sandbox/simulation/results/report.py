"""The result of a run as figures, and as text for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sandbox.simulation.results.timeline import Sample
from sandbox.simulation.world import SimulatedWorld

_PERCENTS = (50, 95, 99)
_QUEUE_ROWS = 10
_BINDING = 0.9
"""A limit, or the slots, decide if so much of them is used while posts wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReport:
    """One class of stores. `wait` is p50, p95, p99 from request to start, `total` to the post."""

    name: str
    stores: int
    posts: int
    refused: int
    failed: int
    wait_s: tuple[float | None, ...]
    total_s: tuple[float | None, ...]
    longest_s: float
    """The longest time from a request to its post."""
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReport:
    """One limit. `used` is its used part (0 to 1) while posts waited, `None` if none did."""

    name: str
    per_minute: float
    charged: float
    used: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """All figures of a run. Times are seconds of the virtual clock."""

    stores: int
    posts: int
    done: int
    failed: int
    unfinished: int
    """Posts left at the end, requested or not: the simulation was cut off at `until`."""
    simulated_s: float
    """From the start to the end of the simulation."""
    refused: int
    """Requests that came while the intake was closed. Each came again later."""
    retries: int
    workers: int
    slots: int
    partitions: int
    carried_texts: dict[str, int]
    """The largest text calls that each limit carries: so many partitions can carry its quota."""
    has_faults: bool
    makespan_s: float
    """From the first request to the last post."""
    waiting_s: float
    """The time during which posts waited."""
    classes: tuple[ClassReport, ...]
    limits: tuple[LimitReport, ...]
    slots_used: float | None
    rejected: dict[str, int]
    """429 answers of each provider."""
    jain: float | None
    """Mean of the windows in which every store that always waited was served often enough."""
    jain_worst: float | None
    peak_waiting: int
    peak_at_s: float
    queue: tuple[Sample, ...]
    cost_usd: float
    lost_usd: float
    """Of that, for answers that were not saved because a worker died."""

    @property
    def binding(self) -> str | None:
        """Return what made the posts wait: a limit, `slots`, or `None` if nothing did."""
        used = {limit.name: limit.used for limit in self.limits} | {"slots": self.slots_used}
        known = {name: part for name, part in used.items() if part is not None}
        tightest = max(known, key=lambda name: known[name], default=None)
        return tightest if tightest is not None and known[tightest] >= _BINDING else None

    @property
    def carrying_partitions(self) -> int:
        """Return the partitions that carry the quota for texts. As many workers get jobs."""
        return min(self.partitions, *self.carried_texts.values())

    @property
    def usable_slots(self) -> int:
        """Return the slots of the workers that get jobs, at the start."""
        return self.queue[0].offered


def summarize_world(world: SimulatedWorld) -> SimulationReport:
    """Return the figures of a world that has run."""
    statistics, settings = world.statistics, world.settings
    limits = world.limits
    used = statistics.busy_use(limits)
    charged = world.providers.charged_units()
    indexes = statistics.fairness.indexes
    unfinished = world.workload.posts - statistics.done - statistics.failed
    return SimulationReport(
        stores=world.workload.stores,
        posts=world.workload.posts,
        done=statistics.done,
        failed=statistics.failed,
        unfinished=unfinished,
        simulated_s=settings.until if unfinished else world.clock.now,
        refused=statistics.refused,
        retries=statistics.retries,
        workers=settings.workers,
        slots=settings.slots,
        partitions=settings.partitions,
        carried_texts=settings.carried_texts(),
        has_faults=bool(settings.outages or settings.deaths or settings.deploys),
        makespan_s=max(statistics.last_end_at - (statistics.first_at or 0.0), 0.0),
        waiting_s=statistics.busy_s,
        classes=tuple(_class_reports(world)),
        limits=tuple(
            LimitReport(name=name, per_minute=limit, charged=charged[name], used=used[name])
            for name, limit in limits.items()
        ),
        slots_used=statistics.busy_running_s / statistics.busy_slots_s
        if statistics.busy_slots_s
        else None,
        rejected={name: account.rejected for name, account in world.providers.accounts.items()},
        jain=fmean(indexes) if indexes else None,
        jain_worst=min(indexes, default=None),
        peak_waiting=statistics.peak_waiting,
        peak_at_s=statistics.peak_at,
        queue=tuple(statistics.timeline.samples),
        cost_usd=world.spent / 1e9,
        lost_usd=world.lost / 1e9,
    )


def _class_reports(world: SimulatedWorld) -> list[ClassReport]:
    return [
        ClassReport(
            name=described.name,
            stores=described.stores,
            posts=seen.posts,
            refused=seen.refused,
            failed=seen.failed,
            wait_s=tuple(seen.wait.percentiles(_PERCENTS)),
            total_s=tuple(seen.total.percentiles(_PERCENTS)),
            longest_s=seen.total.longest_s,
            cost_usd=seen.cost / 1e9,
        )
        for described, seen in zip(world.workload.classes, world.statistics.classes, strict=True)
        if seen.posts
    ]


def format_report(report: SimulationReport) -> str:
    """Format the report for a terminal."""
    return "\n".join(
        [
            *_class_table(report.classes),
            "",
            *_limit_table(report),
            "",
            *_queue_table(report),
            "",
            *_summary_lines(report),
        ]
    )


def _class_table(classes: Sequence[ClassReport]) -> list[str]:
    header = ["stores", "number", "posts", "refused", "failed", "wait p50", "p95", "p99"]
    header += ["to post p50", "p95", "p99", "longest", "cost"]
    rows = [
        [
            one.name,
            f"{one.stores:,}",
            f"{one.posts:,}",
            f"{one.refused:,}",
            f"{one.failed:,}",
            *map(format_duration, one.wait_s),
            *map(format_duration, one.total_s),
            format_duration(one.longest_s),
            f"${one.cost_usd:,.2f}",
        ]
        for one in classes
    ]
    return _format_table(header, rows)


def _limit_table(report: SimulationReport) -> list[str]:
    rows = [
        [limit.name, f"{limit.per_minute:,.0f}", f"{limit.charged:,.0f}", _format_part(limit.used)]
        for limit in report.limits
    ]
    rows.append(["slots", f"{report.usable_slots:,} at once", "", _format_part(report.slots_used)])
    return _format_table(["limit", "a minute", "charged", "used while posts waited"], rows)


def _queue_table(report: SimulationReport) -> list[str]:
    step = max(1, -(-len(report.queue) // _QUEUE_ROWS))
    rows = [
        [format_duration(one.at), f"{one.waiting:,}", f"{one.running:,}", f"{one.done:,}"]
        for one in report.queue[::step]
    ]
    return _format_table(["at", "waiting", "running", "done"], rows)


def _summary_lines(report: SimulationReport) -> list[str]:
    rejected = ", ".join(f"{name} {count:,}" for name, count in report.rejected.items() if count)
    lines = [
        f"{report.done:,} of {report.posts:,} posts done in {format_duration(_ran_s(report))},"
        f" {report.failed:,} failed, {report.unfinished:,} not finished,"
        f" {report.retries:,} attempts repeated",
        f"429 answers: {rejected or 'none'}",
        "Jain's index by money among stores that always waited: "
        + (
            f"{report.jain:.4f}, worst minute {report.jain_worst:.4f}"
            if report.jain is not None
            else "not known: no minute served ten posts for each of two such stores"
        ),
        f"most posts waiting: {report.peak_waiting:,}, at {format_duration(report.peak_at_s)}",
        f"cost: ${report.cost_usd:,.2f}"
        + (f", of that lost with workers: ${report.lost_usd:,.2f}" if report.lost_usd else ""),
    ]
    return [*lines, *_verdict(report)]


def _ran_s(report: SimulationReport) -> float:
    """Return the time to the last post, or until the simulation was cut off."""
    return report.simulated_s if report.unfinished else report.makespan_s


def _verdict(report: SimulationReport) -> list[str]:
    """Say whether the simulation was cut off, and what made the posts wait."""
    if not report.unfinished:
        return [_advice(report)]
    at = format_duration(report.simulated_s)
    cut = f"The simulation was cut off at --hours ({at}): {report.unfinished:,} posts are left."
    return [cut, _advice(report)] if report.waiting_s else [cut]


def _advice(report: SimulationReport) -> str:
    binding = report.binding
    if report.waiting_s == 0:
        return "Posts did not wait: neither a limit nor the workers hold anything up."
    if binding == "slots":
        return _slots_advice(report)
    if binding is not None:
        return f"{binding} decides: a higher limit makes it faster, and more workers do not."
    unknown = "Neither a limit nor the slots are used up while posts wait"
    return f"{unknown}: look at the faults." if report.has_faults else f"{unknown}."


def _slots_advice(report: SimulationReport) -> str:
    """Say how to get more slots. One worker for each carrying partition is the most."""
    carrying = report.carrying_partitions
    if report.workers < carrying:
        return "The slots decide: more workers make it faster."
    tightest = min(report.carried_texts, key=report.carried_texts.__getitem__)
    most = report.carried_texts[tightest]
    bound = (
        f"The slots decide, and the partitions bound the workers: {carrying} of"
        f" {report.partitions} partitions carry quota, so {carrying} workers at most get jobs."
        " More workers do not make it faster."
    )
    if carrying == most:
        return f"{bound} A higher limit of {tightest}, or more CONCURRENT_BLOGS, does."
    return (
        f"{bound} More GENERATION_PARTITIONS do ({tightest} let up to {most:,} carry quota),"
        " and so do more CONCURRENT_BLOGS."
    )


def format_duration(seconds: float | None) -> str:
    """Format seconds as `0.03 s`, `12.5 s`, `3.2 min` or `5.1 h`; `–` for none."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def _format_part(part: float | None) -> str:
    return f"{part:.1%}" if part is not None else "–"


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the first column left and the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]
