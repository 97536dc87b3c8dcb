"""Declares every metric once: name, kind, labels and help text.

Values are in base units. Labels have few values, and never name a store.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDefinition:
    name: str
    kind: str
    """gauge, counter or histogram."""
    help: str
    labels: tuple[str, ...] = ()


_LIMIT = ("provider", "model", "resource")

PENDING = MetricDefinition(
    name="blogstream_jobs_pending",
    kind="gauge",
    help="Waiting jobs, as the leading scheduler reports them.",
)
DUE = MetricDefinition(
    name="blogstream_jobs_due",
    kind="gauge",
    help="Waiting jobs that could be dispatched now.",
)
IN_FLIGHT = MetricDefinition(
    name="blogstream_jobs_in_flight", kind="gauge", help="Jobs dispatched and not yet ended."
)
OLDEST = MetricDefinition(
    name="blogstream_oldest_pending_age_seconds",
    kind="gauge",
    help="Seconds since the longest waiting job became due.",
)
BUDGETS = MetricDefinition(
    name="blogstream_store_budgets",
    kind="gauge",
    labels=("state",),
    help="Stores whose monthly budget is nearly spent (warning) or stops them (stopped).",
)
JOBS = MetricDefinition(
    name="blogstream_jobs",
    kind="gauge",
    help="Jobs by state, over all events in Kafka.",
    labels=("state",),
)
ENDED = MetricDefinition(
    name="blogstream_jobs_ended",
    kind="counter",
    labels=("state",),
    help="Ended jobs by state; a retried job that ends again counts twice.",
)
TOKENS = MetricDefinition(
    name="blogstream_tokens", kind="counter", help="Tokens billed.", labels=("direction",)
)
IMAGES = MetricDefinition(name="blogstream_images", kind="counter", help="Images billed.")
COST = MetricDefinition(name="blogstream_cost_usd", kind="counter", help="US dollars billed.")
IN_DOUBT = MetricDefinition(
    name="blogstream_in_doubt_calls",
    kind="counter",
    help="Provider calls that may have been billed although their answer was lost.",
)
WAIT = MetricDefinition(
    name="blogstream_wait_seconds",
    kind="histogram",
    help="Seconds from the request to the first claim.",
)
RUN = MetricDefinition(
    name="blogstream_run_seconds", kind="histogram", help="Seconds from the first claim to the end."
)
LIMITER_LIMIT = MetricDefinition(
    name="blogstream_limiter_limit_per_second",
    kind="gauge",
    labels=_LIMIT,
    help="The account's rate limit per second, in the resource's unit.",
)
LIMITER_USE = MetricDefinition(
    name="blogstream_limiter_used_ratio",
    kind="gauge",
    labels=_LIMIT,
    help="Use in the last minute divided by the account's rate limit.",
)
LIMITER_QUEUE = MetricDefinition(
    name="blogstream_limiter_queue",
    kind="gauge",
    labels=_LIMIT,
    help="Calls that wait for a permit.",
)
LIMITER_LEVEL = MetricDefinition(
    name="blogstream_limiter_level",
    kind="gauge",
    labels=(*_LIMIT, "partition"),
    help="Level of a partition's quota, in the resource's unit; a negative level is debt.",
)
LIMITER_DEBT = MetricDefinition(
    name="blogstream_limiter_debt",
    kind="gauge",
    labels=(*_LIMIT, "partition"),
    help="Debt of a partition's quota, in the resource's unit.",
)
LIMITER_UNOWNED = MetricDefinition(
    name="blogstream_limiter_unowned_partitions",
    kind="gauge",
    labels=_LIMIT,
    help="Partitions whose quota no worker owns.",
)
COOLING = MetricDefinition(
    name="blogstream_limiter_cooling_seconds",
    kind="gauge",
    labels=_LIMIT,
    help="Seconds left of the cool-down that the provider asked for.",
)
CIRCUIT = MetricDefinition(
    name="blogstream_circuit_open",
    kind="gauge",
    labels=_LIMIT,
    help=(
        "1 while the circuit breaker is open (an outage, an account without money, a rejected"
        " key or model), else 0."
    ),
)
JAIN = MetricDefinition(
    name="blogstream_fairness_jain_ratio",
    kind="gauge",
    help=(
        "Jain's index of cost per weight over the accounts with waiting jobs during the whole"
        " last window."
    ),
)
GAP = MetricDefinition(
    name="blogstream_fairness_largest_gap_usd",
    kind="gauge",
    help=(
        "Largest difference of cost per weight, in US dollars, between two accounts in the"
        " last window."
    ),
)
SLOWDOWN = MetricDefinition(
    name="blogstream_fairness_light_slowdown_ratio",
    kind="gauge",
    help=(
        "Time to a post for light stores in the last window, divided by the same time without"
        " waiting."
    ),
)
DRIFTED = MetricDefinition(
    name="blogstream_slots_drifted",
    kind="counter",
    help=(
        "Slots that differed from PostgreSQL and were repaired since the leading scheduler started."
    ),
)
SCHEDULER_AGE = MetricDefinition(
    name="blogstream_scheduler_report_age_seconds",
    kind="gauge",
    help="Seconds since the latest report of the leading scheduler.",
)
WORKERS = MetricDefinition(
    name="blogstream_workers", kind="gauge", help="Workers with a report in the last seconds."
)
SLOTS = MetricDefinition(
    name="blogstream_worker_slots", kind="gauge", help="Slots of all workers.", labels=("state",)
)
LAG = MetricDefinition(
    name="blogstream_lag_records",
    kind="gauge",
    labels=("stage",),
    help="Records that a stage has not committed yet.",
)
DEAD_LETTERS = MetricDefinition(
    name="blogstream_dead_letters_open",
    kind="gauge",
    help="Dead letters that are neither replayed nor discarded.",
)
MALFORMED = MetricDefinition(
    name="blogstream_malformed_events",
    kind="counter",
    help="Invalid events since the start.",
)
DRIFT_JOBS = MetricDefinition(
    name="blogstream_metrics_drift_jobs",
    kind="gauge",
    help=(
        "Jobs of the last day whose count differed from PostgreSQL twice in a row; 0 unless"
        " events were lost, absent before the second comparison."
    ),
)
DRIFT_COST = MetricDefinition(
    name="blogstream_metrics_drift_usd",
    kind="gauge",
    help="US dollars of the last day that differed from PostgreSQL twice in a row.",
)
PROCESSES = MetricDefinition(
    name="blogstream_metrics_processes",
    kind="gauge",
    labels=("state",),
    help=(
        "Metrics processes whose numbers are in this answer (answers) and that do not answer"
        " (missing)."
    ),
)
UNCOUNTED = MetricDefinition(
    name="blogstream_metrics_uncounted_partitions",
    kind="gauge",
    help="Partitions of blog.results whose numbers are missing from this answer.",
)

METRICS = (
    PENDING,
    DUE,
    IN_FLIGHT,
    OLDEST,
    JOBS,
    ENDED,
    TOKENS,
    IMAGES,
    COST,
    IN_DOUBT,
    WAIT,
    RUN,
    LIMITER_LIMIT,
    LIMITER_USE,
    LIMITER_QUEUE,
    LIMITER_LEVEL,
    LIMITER_DEBT,
    LIMITER_UNOWNED,
    COOLING,
    CIRCUIT,
    WORKERS,
    SLOTS,
    LAG,
    DEAD_LETTERS,
    MALFORMED,
    JAIN,
    GAP,
    SLOWDOWN,
    DRIFTED,
    SCHEDULER_AGE,
    DRIFT_JOBS,
    DRIFT_COST,
    PROCESSES,
    UNCOUNTED,
    BUDGETS,
)
