"""Declares every alert once, for the service and for the generated files in `deploy/`."""

from math import inf

from services.metrics.alerts.rules import SECONDS, Alert, AlertInputs, AlertLevel, BadSide, Severity
from services.metrics.export import metric_definitions as defs
from services.metrics.export.promql import CELL_LABEL, by_cell, increase, largest, series

WINDOW_MINUTES = 15
"""The window for failures, repaired slots and in-doubt calls."""

THROUGHPUT_MINUTES = 5

MIN_ENDED_JOBS = 10
"""With fewer ended jobs in the window, the failure rate raises no alert."""

_FAILED = increase(defs.ENDED, WINDOW_MINUTES, state="FAILED")
_ENDED = increase(defs.ENDED, WINDOW_MINUTES)
_DONE_PER_MINUTE = (
    f"{increase(defs.ENDED, THROUGHPUT_MINUTES, state='DONE')} / {THROUGHPUT_MINUTES}"
)

_ZERO = f"{largest(defs.WORKERS, series(defs.WORKERS))} * 0"
"""Zero for each cell whose metrics are scraped."""

_SCHEDULER_SILENT = f"{by_cell('min', series(defs.SCHEDULER_AGE))} or {_ZERO} + 3600"
"""The value is 3600 s while metrics runs and no scheduler has ever reported."""


def _done_per_minute(inputs: AlertInputs) -> float | None:
    """Return the throughput; infinite while no job is due."""
    if inputs.due is None or inputs.done_per_minute is None:
        return None
    return inputs.done_per_minute if inputs.due > 0 else inf


def _warning(raise_at: float, clear_at: float) -> AlertLevel:
    return AlertLevel(severity=Severity.WARNING, raise_at=raise_at, clear_at=clear_at)


def _critical(raise_at: float, clear_at: float) -> AlertLevel:
    return AlertLevel(severity=Severity.CRITICAL, raise_at=raise_at, clear_at=clear_at)


ALERTS = (
    Alert(
        name="queue-long",
        unit="jobs",
        summary="{value} jobs wait",
        advice=(
            "More jobs arrive than are finished. Add workers, or check which limit slows them down."
        ),
        value=lambda inputs: inputs.pending,
        promql=largest(defs.PENDING, series(defs.PENDING)),
        levels=(_warning(1_000, 900), _critical(5_000, 4_500)),
        raise_after_s=5,
        clear_after_s=10,
    ),
    Alert(
        name="oldest-wait",
        unit=SECONDS,
        summary="a job has waited for {value}",
        advice="A store's jobs are not dispatched. Check the stores' waits, then the rate limits.",
        value=lambda inputs: inputs.oldest_wait_s,
        promql=largest(defs.OLDEST, series(defs.OLDEST)),
        levels=(_warning(1_800, 1_500), _critical(7_200, 6_000)),
        raise_after_s=15,
        clear_after_s=15,
    ),
    Alert(
        name="error-rate",
        unit="percent",
        summary=f"{{value}} % of the jobs of the last {WINDOW_MINUTES} minutes failed",
        advice="Above 20 % the plan is to roll back. The jobs' errors show the cause.",
        value=lambda inputs: inputs.failed_percent,
        promql=f"(100 * {_FAILED} / {_ENDED} and {_ENDED} >= {MIN_ENDED_JOBS}) or {_ZERO}",
        levels=(_warning(5, 4), _critical(20, 16)),
        raise_after_s=15,
        clear_after_s=60,
    ),
    Alert(
        name="throughput-low",
        unit="jobs a minute",
        summary="{value} jobs a minute are done while others wait",
        advice=(
            "Below 5 a minute the plan is to roll back. Check workers, rate limits and"
            " circuit breakers first."
        ),
        value=_done_per_minute,
        promql=(
            f"({_DONE_PER_MINUTE}) and on ({CELL_LABEL}) {largest(defs.DUE, series(defs.DUE))} > 0"
        ),
        bad_side=BadSide.BELOW,
        levels=(_critical(5, 6),),
        raise_after_s=300,
        clear_after_s=30,
    ),
    Alert(
        name="circuit-open",
        unit="limits",
        summary="calls to a provider are stopped ({value} limits with an open circuit breaker)",
        advice=(
            "An outage, an account without money, a rejected key, or a wrong set-up:"
            " `./blogstream doctor` names the variable to change."
            " Jobs wait without losing an attempt; one call probes for recovery."
        ),
        value=lambda inputs: inputs.open_circuits,
        causes=lambda inputs: inputs.open_circuit_reasons,
        promql=by_cell("sum", largest(defs.CIRCUIT, series(defs.CIRCUIT))),
        levels=(_critical(0, 0),),
        raise_after_s=0,
        clear_after_s=5,
    ),
    Alert(
        name="no-workers",
        unit="workers",
        summary="{value} workers report",
        advice="No posts are written. Requests are accepted and wait.",
        value=lambda inputs: inputs.workers,
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
        advice=(
            "The scheduler's jobs in flight differed from PostgreSQL: events were lost, or"
            " there is a bug."
        ),
        value=lambda inputs: inputs.drifted,
        promql=increase(defs.DRIFTED, WINDOW_MINUTES),
        levels=(_warning(0, 0), _critical(50, 40)),
        raise_after_s=0,
        clear_after_s=60,
    ),
    Alert(
        name="in-doubt-calls",
        unit="calls",
        summary=(
            f"{{value}} calls of the last {WINDOW_MINUTES} minutes may have been billed in vain"
        ),
        advice=(
            "Workers died or connections broke between a call and its saved answer. Compare"
            " with the provider's bill."
        ),
        value=lambda inputs: inputs.in_doubt,
        promql=increase(defs.IN_DOUBT, WINDOW_MINUTES),
        levels=(_warning(0, 0), _critical(20, 10)),
        raise_after_s=0,
        clear_after_s=60,
    ),
    Alert(
        name="dead-letters",
        unit="records",
        summary="{value} records are in the dead letter queue",
        advice=(
            "No service could process them. `./blogstream dead-letters list` shows why;"
            " `replay` or `discard` them."
        ),
        value=lambda inputs: inputs.dead_letters,
        promql=largest(defs.DEAD_LETTERS, series(defs.DEAD_LETTERS)),
        levels=(_warning(0, 0),),
        raise_after_s=5,
        clear_after_s=5,
    ),
    Alert(
        name="miscounted",
        unit="jobs",
        summary="{value} jobs of the last day are counted differently in PostgreSQL",
        advice=(
            "Events were lost: the numbers here are wrong, the jobs are not. Run `python -m"
            " services.metrics rebuild`."
        ),
        value=lambda inputs: inputs.miscounted,
        promql=largest(defs.DRIFT_JOBS, series(defs.DRIFT_JOBS)),
        levels=(_warning(0, 0),),
        raise_after_s=0,
        clear_after_s=5,
    ),
    Alert(
        name="scheduler-silent",
        unit=SECONDS,
        summary="no report from a scheduler for {value}",
        advice=(
            "No job is admitted or dispatched, and the queue numbers are old. Check that a"
            " scheduler and PostgreSQL run."
        ),
        value=lambda inputs: inputs.scheduler_silent_s,
        promql=_SCHEDULER_SILENT,
        levels=(_warning(15, 5), _critical(60, 5)),
        raise_after_s=0,
        clear_after_s=5,
    ),
)
