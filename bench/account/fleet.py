"""Runs scheduler and workers as processes, with a real broker and database and a backlog."""

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil

from bench.account.decisions import AccountLimits
from sandbox.servers.postgres import open_connection
from sandbox.system.process import ChildProcess, ProcessExit
from sandbox.system.run_log import RunLog
from sandbox.system.system import service_spec
from shared.domain.errors import Unavailable
from shared.domain.job import SourceType
from shared.domain.messages import BlogRequested
from shared.kafka import clients
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import REQUESTS
from shared.runtime.settings import KafkaSettings

_JOBS = 2_000
"""More jobs than any case can finish, so that a backlog always remains."""
_STORES = 20
API_KEY = "sk-bench"
_MAX_TEXT = 2_500


class ServiceFleet:
    """The processes of one benchmark case."""

    def __init__(self, variables: dict[str, str], log: RunLog, publisher: Publisher) -> None:
        self._variables = variables
        self._log = log
        self._publisher = publisher
        self._children: list[ChildProcess] = []
        self._deaths: dict[ChildProcess, asyncio.Task[ProcessExit]] = {}
        self._signalled: set[ChildProcess] = set()

    async def start(self, service: str) -> ChildProcess:
        """Start one more process of a service. Returns once it is ready."""
        spec = service_spec(service, f"{service}-{len(self._children)}", self._variables)
        # The jobs are not needed after the case, so no process drains.
        child = ChildProcess(replace(spec, stop_signal=signal.SIGKILL), self._log)
        self._children.append(child)
        await child.start()
        self._deaths[child] = asyncio.create_task(child.wait_until_exit())
        return child

    async def submit_requests(self, stores: Sequence[str], *, images: int = 0) -> None:
        """Submit one request for each of these stores, in this order."""
        rng = random.Random(1)  # noqa: S311 - the same jobs in every run
        await self._publisher.publish_all(make_requests(rng, stores, images=images), timeout=60)

    def send_signal(self, child: ChildProcess, number: signal.Signals) -> None:
        assert child.pid is not None
        self._signalled.add(child)
        os.kill(child.pid, number)

    def check_processes(self) -> None:
        """Raise `Unavailable` if a process has ended without a signal from this fleet."""
        for child, death in self._deaths.items():
            if death.done() and child not in self._signalled:
                raise Unavailable(death.result().describe())

    def running(self, service: str) -> list[ChildProcess]:
        """Return the processes of a service that have not ended."""
        return [
            child
            for child, death in self._deaths.items()
            if child.name.startswith(f"{service}-") and not death.done()
        ]

    def cpu_s(self, service: str) -> float:
        """Return the processor seconds that all processes of a service have used so far."""
        times = [psutil.Process(child.pid).cpu_times() for child in self.running(service)]
        return sum(time.user + time.system for time in times)

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children))
        await asyncio.gather(*self._deaths.values())


@asynccontextmanager
async def start_fleet(
    *,
    dsn: str,
    bootstrap: str,
    prefix: str,
    url: str,
    limits: AccountLimits,
    backlog: int = _JOBS,
    **variables: str,
) -> AsyncIterator[ServiceFleet]:
    """Start a scheduler with a backlog, without workers. `variables` are further settings."""
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=prefix)
    await clients.ensure_topics(settings)
    async with open_connection(dsn) as connection:
        await connection.execute(
            "TRUNCATE blog_generations, provider_calls CASCADE"  # jobs of the last case
        )
    async with Publisher(settings, source="bench") as publisher:
        with (
            tempfile.TemporaryDirectory(prefix="blogstream-bench-") as name,
            RunLog(Path(name) / "app.log") as log,
        ):
            images = Path(name)
            fleet = ServiceFleet(
                _build_variables(settings, dsn, url, limits, images) | variables, log, publisher
            )
            await fleet.submit_requests([f"store-{number % _STORES}" for number in range(backlog)])
            try:
                await fleet.start("scheduler")
                yield fleet
            finally:
                await fleet.stop()


async def count_ended_jobs(dsn: str) -> tuple[int, int]:
    """Return the numbers of done and failed jobs."""
    async with open_connection(dsn) as connection:
        rows = await connection.fetch(
            "SELECT status, count(*) AS jobs FROM blog_generations GROUP BY status"
        )
    counts = {row["status"]: row["jobs"] for row in rows}
    return counts.get("DONE", 0), counts.get("FAILED", 0)


def make_requests(
    rng: random.Random, stores: Sequence[str], *, images: int = 0
) -> list[OutgoingMessage]:
    """Make a request for each store, with product texts of random length."""
    requests = [
        BlogRequested(
            id=uuid4(),
            store=store,
            created_at=datetime.now(UTC),
            images=images,
            source_type=SourceType.PRODUCT,
            source_id=f"product-{number}",
            title="How to brew green tea at home",
            product={"description": ("Green tea from Uji. " * 200)[: rng.randrange(_MAX_TEXT)]},
        )
        for number, store in enumerate(stores)
    ]
    return [
        OutgoingMessage(topic=REQUESTS, key=request.store, message=request) for request in requests
    ]


def _build_variables(
    settings: KafkaSettings, dsn: str, url: str, limits: AccountLimits, images: Path
) -> dict[str, str]:
    return {
        "DATABASE_URL": dsn,
        "DB_POOL_MIN": "1",
        "DB_POOL_MAX": "5",
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
        "OPENAI_API_KEY": API_KEY,
        "OPENAI_BASE_URL": url,
        "OPENAI_RPM": str(limits.rpm),
        "OPENAI_TPM": str(limits.tpm),
        "REPLICATE_API_TOKEN": "none: no job asks for an image",
        "IMAGE_DIR": str(images),
        "MAX_PENDING_PER_STORE": str(_JOBS),
        "MAX_PENDING_TOTAL": str(_JOBS),
    }
