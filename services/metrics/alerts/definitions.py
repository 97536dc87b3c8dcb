"""Every alert, declared once: what the service judges, and what the files in `deploy/` are made from."""

from math import inf

from services.metrics.alerts.rules import SECONDS, Alert, AlertLevel, AlertInputs, Severity, BadSide
from services.metrics.export import metric_definitions as defs
from services.metrics.export.promql import increase, largest, series

WINDOW_MINUTES = 15
"""Over which failures, repairs and doubtful calls are counted."""

THROUGHPUT_MINUTES = 5

MIN_ENDED_JOBS = 10
"""With fewer ended jobs than this in the window, no rate of failures is worth an alarm."""

_FAILED = increase(defs.ENDED, WINDOW_MINUTES, state="FAILED")
_ENDED = increase(defs.ENDED, WINDOW_MINUTES)
_DONE_PER_MINUTE = (
    f"{increase(defs.ENDED, THROUGHPUT_MINUTES, state='DONE')} / {THROUGHPUT_MINUTES}"
)

_SCHEDULER_SILENT = (
    f"min({series(defs.SCHEDULER_AGE)}) or {largest(defs.WORKERS, series(defs.WORKERS))} * 0 + 3600"
)
"""An hour when we are there and have never heard of one."""


def _done_per_minute(numbers: AlertInputs) -> float | None:
    """Nothing to do is as good as any speed."""
    if numbers.due is None or numbers.done_per_minute is None:
        return None
    return numbers.done_per_minute if numbers.due > 0 else inf


def _warning(raise_at: float, clear_at: float) -> AlertLevel:
    return AlertLevel(severity=Severity.WARNING, raise_at=raise_at, clear_at=clear_at)


def _critical(raise_at: float, clear_at: float) -> AlertLevel:
    return AlertLevel(severity=Severity.CRITICAL, raise_at=raise_at, clear_at=clear_at)


ALERTS = (
    Alert(
        name="queue-long",
        unit="jobs",
        summary="{value} jobs wait",
        advice="More is asked for than is written. Add workers, or see which limit holds them up.",
        value=lambda numbers: numbers.pending,
        promql=largest(defs.PENDING, series(defs.PENDING)),
        levels=(_warning(1_000, 900), _critical(5_000, 4_500)),
        raise_after_s=5,
        clear_after_s=10,
    ),
    Alert(
        name="oldest-wait",
        unit=SECONDS,
        summary="a job has waited for {value}",
        advice="Some store's work does not get its turn: see the stores' waits, then the limiter.",
        value=lambda numbers: numbers.oldest_wait_s,
        promql=largest(defs.OLDEST, series(defs.OLDEST)),
        levels=(_warning(1_800, 1_500), _critical(7_200, 6_000)),
        raise_after_s=15,
        clear_after_s=15,
    ),
    Alert(
        name="error-rate",
        unit="percent",
        summary=f"{{value}} % of the jobs of the last {WINDOW_MINUTES} minutes failed",
        advice="Over 20 % the plan is to roll back. The jobs' errors say why.",
        value=lambda numbers: numbers.failed_percent,
        promql=f"(100 * {_FAILED} / {_ENDED} and {_ENDED} >= {MIN_ENDED_JOBS}) or vector(0)",
        levels=(_warning(5, 4), _critical(20, 16)),
        raise_after_s=15,
        clear_after_s=60,
    ),
    Alert(
        name="throughput-low",
        unit="jobs a minute",
        summary="{value} jobs a minute are done while others wait",
        advice="Under 5 a minute the plan is to roll back. See workers, limiter and circuit first.",
        value=_done_per_minute,
        promql=f"({_DONE_PER_MINUTE}) and on() {largest(defs.DUE, series(defs.DUE))} > 0",
        bad_side=BadSide.BELOW,
        levels=(_critical(5, 6),),
        raise_after_s=300,
        clear_after_s=30,
    ),
    Alert(
        name="circuit-open",
        unit="limits",
        summary="a provider is not asked for now ({value} limits closed)",
        advice="An outage, no money, or a refused key: the log says which. Jobs wait and lose no try; one probes.",
        value=lambda numbers: numbers.open_circuits,
        promql=f"sum({largest(defs.CIRCUIT, series(defs.CIRCUIT))})",
        levels=(_critical(0, 0),),
        raise_after_s=0,
        clear_after_s=5,
    ),
    Alert(
        name="no-workers",
        unit="workers",
        summary="{value} workers are heard",
        advice="Nothing is written. Requests are accepted, and wait.",
        value=lambda numbers: numbers.workers,
        promql=largest(defs.WORKERS, series(defs.WORKERS)),
        bad_side=BadSide.BELOW,
        levels=(_critical(1, 1),),
        raise_after_s=30,
        clear_after_s=5,
    ),
    Alert(
        name="slot-drift",
        unit="slots",
        summary=f"{{value}} slots were repaired in {WINDOW_MINUTES} minutes",
        advice="The scheduler's book of jobs in flight differed from PostgreSQL: events were lost, or there is a fault.",
        value=lambda numbers: numbers.drifted,
        promql=increase(defs.DRIFTED, WINDOW_MINUTES),
        levels=(_warning(0, 0), _critical(50, 40)),
        raise_after_s=0,
        clear_after_s=60,
    ),
    Alert(
        name="in-doubt-calls",
        unit="calls",
        summary=f"{{value}} calls of the last {WINDOW_MINUTES} minutes may have been billed in vain",
        advice="Workers died, or answers were cut, between the call and its saved answer. Compare with the bill.",
        value=lambda numbers: numbers.in_doubt,
        promql=increase(defs.IN_DOUBT, WINDOW_MINUTES),
        levels=(_warning(0, 0), _critical(20, 10)),
        raise_after_s=0,
        clear_after_s=60,
    ),
    Alert(
        name="dead-letters",
        unit="records",
        summary="{value} records were put aside and nobody has looked after them",
        advice="No service could handle them. `./blogstream dead-letters list` says why, and replays or discards them.",
        value=lambda numbers: numbers.dead_letters,
        promql=largest(defs.DEAD_LETTERS, series(defs.DEAD_LETTERS)),
        levels=(_warning(0, 0),),
        raise_after_s=5,
        clear_after_s=5,
    ),
    Alert(
        name="miscounted",
        unit="jobs",
        summary="{value} jobs of the last day are counted other than PostgreSQL has them",
        advice="Events were lost: the numbers here are wrong, the jobs are not. `python -m services.metrics rebuild`.",
        value=lambda numbers: numbers.miscounted,
        promql=largest(defs.DRIFT_JOBS, series(defs.DRIFT_JOBS)),
        levels=(_warning(0, 0),),
        raise_after_s=0,
        clear_after_s=5,
    ),
    Alert(
        name="scheduler-silent",
        unit=SECONDS,
        summary="no scheduler was heard for {value}",
        advice="Nothing is admitted or forwarded, and the numbers of the queue are old. Is one running, and PostgreSQL?",
        value=lambda numbers: numbers.scheduler_silent_s,
        promql=_SCHEDULER_SILENT,
        levels=(_warning(15, 5), _critical(60, 5)),
        raise_after_s=0,
        clear_after_s=5,
    ),
)
