"""Every metric's name, kind, labels and meaning, declared once: the Prometheus text is made from here.

Base units; labels with few values only, never a store.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    name: str
    kind: str
    """gauge or counter."""
    help: str
    labels: tuple[str, ...] = ()


PENDING = Metric(name="blogstream_jobs_pending", kind="gauge", help="Jobs that wait, as the active scheduler has them.")
DUE = Metric(name="blogstream_jobs_due", kind="gauge", help="Jobs that wait and could go: no delay holds them.")
IN_FLIGHT = Metric(name="blogstream_jobs_in_flight", kind="gauge", help="Jobs forwarded and not settled.")
OLDEST = Metric(
    name="blogstream_oldest_pending_age_seconds",
    kind="gauge",
    help="Seconds since the job that has waited longest could have gone.",
)
JOBS = Metric(name="blogstream_jobs", kind="gauge", help="Jobs by state, of all events kept.", labels=("state",))
ENDED = Metric(name="blogstream_jobs_ended", kind="counter", help="Jobs that ended, by state.", labels=("state",))
TOKENS = Metric(name="blogstream_tokens", kind="counter", help="Tokens billed.", labels=("direction",))
IMAGES = Metric(name="blogstream_images", kind="counter", help="Images billed.")
COST = Metric(name="blogstream_cost_usd", kind="counter", help="US dollars billed.")
WAIT = Metric(name="blogstream_wait_seconds", kind="histogram", help="Seconds from the request to the first claim.")
RUN = Metric(name="blogstream_run_seconds", kind="histogram", help="Seconds from the first claim to the end.")
LIMITER_USE = Metric(
    name="blogstream_limiter_used_ratio", kind="gauge", help="Used in the last minute ÷ the account's limit.",
    labels=("provider", "resource"),
)  # fmt: skip
LIMITER_QUEUE = Metric(
    name="blogstream_limiter_queue", kind="gauge", help="Calls waiting for a limiter.", labels=("provider", "resource")
)
JAIN = Metric(
    name="blogstream_fairness_jain_ratio", kind="gauge",
    help="Jain's index of money per weight over the accounts that had work waiting all of the last window.",
)  # fmt: skip
SLOWDOWN = Metric(
    name="blogstream_fairness_light_slowdown_ratio", kind="gauge",
    help="Light stores' time to a post in the last window, over the same without the wait.",
)  # fmt: skip
DRIFTED = Metric(
    name="blogstream_slots_drifted", kind="counter",
    help="Slots held that differed from PostgreSQL and were repaired, since the active scheduler began.",
)  # fmt: skip
IN_DOUBT = Metric(
    name="blogstream_in_doubt_calls", kind="counter",
    help="Provider calls of which nobody can say whether they were billed.",
)  # fmt: skip
CIRCUIT = Metric(
    name="blogstream_circuit_open", kind="gauge", help="1 while a provider's account has no money left, else 0.",
    labels=("provider", "resource"),
)  # fmt: skip
SCHEDULER_AGE = Metric(
    name="blogstream_scheduler_report_age_seconds", kind="gauge", help="Seconds since the active scheduler was heard."
)
WORKERS = Metric(name="blogstream_workers", kind="gauge", help="Generator processes heard in the last seconds.")
SLOTS = Metric(name="blogstream_worker_slots", kind="gauge", help="Slots of all workers.", labels=("state",))
MALFORMED = Metric(
    name="blogstream_malformed_events", kind="counter", help="Events that could not be understood since the start."
)

METRICS = (
    PENDING, IN_FLIGHT, OLDEST, JOBS, ENDED, TOKENS, IMAGES, COST, WAIT, RUN, LIMITER_USE, LIMITER_QUEUE, WORKERS,
    SLOTS, MALFORMED, JAIN, SLOWDOWN, DRIFTED, DUE, IN_DOUBT, CIRCUIT, SCHEDULER_AGE,
)  # fmt: skip
