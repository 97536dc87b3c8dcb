"""The scheduler's settings."""

from pydantic import Field

from shared.runtime.settings import (
    AdmissionSettings,
    KafkaSettings,
    PostgresSettings,
    ProcessingSettings,
    Seconds,
)


class SchedulerSettings(ProcessingSettings, AdmissionSettings, KafkaSettings, PostgresSettings):
    hard_cap: bool = Field(
        False,
        description="true: a store never exceeds MAX_PER_INSTANCE in flight, even when no other"
        " store has work",
    )
    forward_timeout_s: Seconds = Field(
        30,
        description="seconds after which a dispatched job without a claim is dispatched again",
    )
    worker_silence_s: Seconds = Field(
        5,
        description="seconds without a report after which a worker gets no more jobs; workers"
        " report every second. Clocks must differ by less. If it has no connection to PostgreSQL"
        " for as long either, it is dead, and its jobs return to the queue",
    )
    lease_grace_s: Seconds = Field(
        5,
        description="seconds past a lease's end before the job returns to the queue; longer than"
        " clocks differ",
    )
    sweep_every_s: Seconds = Field(
        5, description="seconds between comparisons of the fair queue with PostgreSQL"
    )
    fairness_window_s: Seconds = Field(
        60, description="seconds of each window over which fairness is measured and reported"
    )
