"""Every metric's name, kind, labels and meaning, declared once: the Prometheus text is made from here.

Base units; labels with few values only, never a store.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    name: str
    kind: str
    """gauge, counter or histogram."""
    help: str
    labels: tuple[str, ...] = ()


_LIMIT = ("provider", "model", "resource")

PENDING = Metric(
    name="blogstream_jobs_pending",
    kind="gauge",
    help="Jobs that wait, as the active scheduler has them.",
)
DUE = Metric(
    name="blogstream_jobs_due",
    kind="gauge",
    help="Jobs that wait and could go: nothing holds them.",
)
IN_FLIGHT = Metric(
    name="blogstream_jobs_in_flight", kind="gauge", help="Jobs forwarded and not settled."
)
OLDEST = Metric(
    name="blogstream_oldest_pending_age_seconds",
    kind="gauge",
    help="Seconds since the job that has waited longest could have gone.",
)
BUDGETS = Metric(
    name="blogstream_store_budgets",
    kind="gauge",
    labels=("state",),
    help="Stores whose monthly budgets are nearly spent, or stop them.",
)
JOBS = Metric(
    name="blogstream_jobs",
    kind="gauge",
    help="Jobs by state, of all events kept.",
    labels=("state",),
)
ENDED = Metric(
    name="blogstream_jobs_ended",
    kind="counter",
    labels=("state",),
    help="Ends of jobs, by state: one that is asked for again and ends again counts twice.",
)
TOKENS = Metric(
    name="blogstream_tokens", kind="counter", help="Tokens billed.", labels=("direction",)
)
IMAGES = Metric(name="blogstream_images", kind="counter", help="Images billed.")
COST = Metric(name="blogstream_cost_usd", kind="counter", help="US dollars billed.")
IN_DOUBT = Metric(
    name="blogstream_in_doubt_calls",
    kind="counter",
    help="Provider calls of which nobody can say whether they were billed.",
)
WAIT = Metric(
    name="blogstream_wait_seconds",
    kind="histogram",
    help="Seconds from the request to the first claim.",
)
RUN = Metric(
    name="blogstream_run_seconds", kind="histogram", help="Seconds from the first claim to the end."
)
LIMITER_LIMIT = Metric(
    name="blogstream_limiter_limit_per_second",
    kind="gauge",
    labels=_LIMIT,
    help="What the account's limit allows a second, in the resource's unit.",
)
LIMITER_USE = Metric(
    name="blogstream_limiter_used_ratio",
    kind="gauge",
    labels=_LIMIT,
    help="Used in the last minute ÷ the account's limit.",
)
LIMITER_QUEUE = Metric(
    name="blogstream_limiter_queue",
    kind="gauge",
    labels=_LIMIT,
    help="Calls waiting for a limiter.",
)
LIMITER_LEVEL = Metric(
    name="blogstream_limiter_level",
    kind="gauge",
    labels=(*_LIMIT, "partition"),
    help="What may be spent at once of a partition's part of the limit, in the resource's unit; negative is debt.",
)
LIMITER_DEBT = Metric(
    name="blogstream_limiter_debt",
    kind="gauge",
    labels=(*_LIMIT, "partition"),
    help="What a partition's part of the limit is overdrawn by, in the resource's unit.",
)
LIMITER_UNOWNED = Metric(
    name="blogstream_limiter_unowned_partitions",
    kind="gauge",
    labels=_LIMIT,
    help="Partitions whose part of the limit no worker owns.",
)
COOLING = Metric(
    name="blogstream_limiter_cooling_seconds",
    kind="gauge",
    labels=_LIMIT,
    help="Seconds for which a provider has asked to be left alone.",
)
CIRCUIT = Metric(
    name="blogstream_circuit_open",
    kind="gauge",
    labels=_LIMIT,
    help="1 while a provider is not asked: an outage, an account without money, a refused key or model; else 0.",
)
JAIN = Metric(
    name="blogstream_fairness_jain_ratio",
    kind="gauge",
    help="Jain's index of money per weight over the accounts that had work waiting all of the last window.",
)
GAP = Metric(
    name="blogstream_fairness_largest_gap_usd",
    kind="gauge",
    help="US dollars per weight between the account that got most in the last window and the one that got least.",
)
SLOWDOWN = Metric(
    name="blogstream_fairness_light_slowdown_ratio",
    kind="gauge",
    help="Light stores' time to a post in the last window, over the same without the wait.",
)
DRIFTED = Metric(
    name="blogstream_slots_drifted",
    kind="counter",
    help="Slots held that differed from PostgreSQL and were repaired, since the active scheduler began.",
)
SCHEDULER_AGE = Metric(
    name="blogstream_scheduler_report_age_seconds",
    kind="gauge",
    help="Seconds since the active scheduler was heard.",
)
WORKERS = Metric(
    name="blogstream_workers", kind="gauge", help="Generator processes heard in the last seconds."
)
SLOTS = Metric(
    name="blogstream_worker_slots", kind="gauge", help="Slots of all workers.", labels=("state",)
)
LAG = Metric(
    name="blogstream_lag_records",
    kind="gauge",
    labels=("stage",),
    help="Records that a stage has not committed yet.",
)
DEAD_LETTERS = Metric(
    name="blogstream_dead_letters_open",
    kind="gauge",
    help="Dead letters that nobody has replayed or discarded.",
)
MALFORMED = Metric(
    name="blogstream_malformed_events",
    kind="counter",
    help="Events that could not be understood since the start.",
)
DRIFT_JOBS = Metric(
    name="blogstream_metrics_drift_jobs",
    kind="gauge",
    help="Jobs of the last day counted other than PostgreSQL has them, twice in a row: 0 unless events got lost, absent"
    " until it was compared twice.",
)
DRIFT_COST = Metric(
    name="blogstream_metrics_drift_usd",
    kind="gauge",
    help="US dollars of the last day counted other than PostgreSQL has them, twice in a row.",
)
PROCESSES = Metric(
    name="blogstream_metrics_processes",
    kind="gauge",
    labels=("state",),
    help="Processes that count: those whose numbers are in this answer, and those that do not answer.",
)
UNCOUNTED = Metric(
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
