"""Ours as it runs: scheduler and workers as processes, a real broker and database, and always a backlog."""

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil

from bench.account.audit import Limits
from sandbox.servers.postgres import open_connection
from sandbox.system.process import ChildProcess, ProcessExit
from sandbox.system.run_log import RunLog
from sandbox.system.system import service_spec
from shared.domain.errors import Unavailable
from shared.domain.job import SourceType
from shared.domain.messages import BlogRequested
from shared.kafka import clients
from shared.kafka.publisher import Outgoing, Publisher
from shared.kafka.topics import REQUESTS
from shared.runtime.settings import KafkaSettings

_JOBS = 2_000
"""More than any case's account can write while the case lasts: there is always backlog."""
_STORES = 20
API_KEY = "sk-bench"
_LONGEST_TEXT = 2_500


class Fleet:
    """The processes of one case."""

    def __init__(self, variables: dict[str, str], log: RunLog) -> None:
        self._variables = variables
        self._log = log
        self._children: list[ChildProcess] = []
        self._deaths: dict[ChildProcess, asyncio.Task[ProcessExit]] = {}
        self._sent_away: set[ChildProcess] = set()

    async def start(self, service: str) -> ChildProcess:
        """One more process of a service; returns once it is ready."""
        spec = service_spec(service, f"{service}-{len(self._children)}", self._variables)
        # What is left when a case is over has nothing to hand back: nobody looks at it any more.
        child = ChildProcess(replace(spec, stop_signal=signal.SIGKILL), self._log)
        self._children.append(child)
        await child.start()
        self._deaths[child] = asyncio.create_task(child.wait_until_exit())
        return child

    def send_away(self, child: ChildProcess, how: signal.Signals) -> None:
        assert child.pid is not None
        self._sent_away.add(child)
        os.kill(child.pid, how)

    def check(self) -> None:
        """`Unavailable` when a process has ended that nobody sent away."""
        for child, death in self._deaths.items():
            if death.done() and child not in self._sent_away:
                raise Unavailable(death.result().describe())

    def cpu_s(self, service: str) -> float:
        """Processor seconds that all processes of a service have used so far."""
        processes = [
            psutil.Process(child.pid)
            for child in self._children
            if child.name.startswith(f"{service}-")
        ]
        times = [process.cpu_times() for process in processes]
        return sum(time.user + time.system for time in times)

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children))
        await asyncio.gather(*self._deaths.values())


@asynccontextmanager
async def a_fleet(
    *,
    dsn: str,
    bootstrap: str,
    prefix: str,
    url: str,
    limits: Limits,
    backlog: int = _JOBS,
    **variables: str,
) -> AsyncIterator[Fleet]:
    """A scheduler with a backlog of jobs, and no worker yet. `variables` are more settings of the services."""
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=prefix)
    await clients.ensure_topics(settings)
    async with open_connection(dsn) as connection:
        await connection.execute(
            "TRUNCATE blog_generations, provider_calls CASCADE"
        )  # or the last case's jobs come first
    async with Publisher(settings, source="bench") as publisher:
        await publisher.publish_all(requests(random.Random(1), backlog), timeout=60)  # noqa: S311 - the same jobs in every run
    with (
        tempfile.TemporaryDirectory(prefix="blogstream-bench-") as name,
        RunLog(Path(name) / "app.log") as log,
    ):
        fleet = Fleet(_variables(settings, dsn, url, limits, images=Path(name)) | variables, log)
        try:
            await fleet.start("scheduler")
            yield fleet
        finally:
            await fleet.stop()


async def ended(dsn: str) -> tuple[int, int]:
    """How many blogs are done, and how many have failed."""
    async with open_connection(dsn) as connection:
        rows = await connection.fetch(
            "SELECT status, count(*) AS jobs FROM blog_generations GROUP BY status"
        )
    counts = {row["status"]: row["jobs"] for row in rows}
    return counts.get("DONE", 0), counts.get("FAILED", 0)


def requests(chance: random.Random, jobs: int) -> list[Outgoing]:
    """Jobs without images, with product texts of any length up to what a prompt takes."""
    made = [
        BlogRequested(
            id=uuid4(),
            store=f"store-{number % _STORES}",
            created_at=datetime.now(UTC),
            images=0,
            source_type=SourceType.PRODUCT,
            source_id=f"product-{number}",
            title="How to brew green tea at home",
            product={
                "description": ("Green tea from Uji. " * 200)[: chance.randrange(_LONGEST_TEXT)]
            },
        )
        for number in range(jobs)
    ]
    return [Outgoing(topic=REQUESTS, key=request.store, message=request) for request in made]


def _variables(
    settings: KafkaSettings, dsn: str, url: str, limits: Limits, images: Path
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
