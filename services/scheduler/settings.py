"""scheduler's settings."""

from pydantic import Field

from shared.settings import Count, FlowSettings, KafkaSettings, PostgresSettings, Seconds


class SchedulerSettings(FlowSettings, KafkaSettings, PostgresSettings):
    hard_cap: bool = Field(
        False, description="true: a store never exceeds MAX_PER_INSTANCE in flight, even when nobody else has work"
    )
    max_pending_per_store: Count = Field(
        1_000, description="jobs waiting in one store's queue at which its door closes; it opens at four fifths of that"
    )
    max_pending_total: Count = Field(
        50_000,
        description="jobs waiting in all queues at which everybody's door closes: what a takeover reads in seconds",
    )
    default_cost_nanousd: Count = Field(
        5_000_000, description="billionths of a dollar reserved for the first job of a store; its mean replaces it"
    )
    forward_timeout_s: Seconds = Field(
        30, description="seconds after which a job that was forwarded and not claimed is forwarded again"
    )
    worker_silence_s: Seconds = Field(
        5,
        description="seconds without a report after which a worker gets no more jobs; workers report every second."
        " Clocks must differ by less",
    )
    lease_grace_s: Seconds = Field(
        5, description="seconds past a lease's end before the job returns to the queue; longer than clocks differ"
    )
    sweep_every_s: Seconds = Field(5, description="seconds between comparisons of the book with PostgreSQL")
    fairness_window_s: Seconds = Field(60, description="seconds of each window over which fairness is judged and told")
