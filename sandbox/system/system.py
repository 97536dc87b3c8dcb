"""Runs a complete system in one home: servers, migrations, stand-ins and services."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import orjson

from migrations import grants, runner
from migrations.settings import select_logins
from sandbox.servers import kafka, postgres
from sandbox.system.environment import (
    Ports,
    process_environment,
    service_environment,
    standins_needed,
    with_service_login,
)
from sandbox.system.home import ROOT, Home, write_atomically
from sandbox.system.process import ChildProcess, ProcessSpec
from sandbox.system.run_log import RunLog
from sandbox.system.supervisor import Stage, Supervisor
from shared.domain.api_keys import create_key, is_valid_key
from shared.runtime.postgres import connect

TEST_STORE = "test-store"
_READY_LINES = {"generator": "[Blog Worker] Started successfully", "scheduler": "scheduler started"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemOptions:
    """Options of a system. `report` receives one line per event."""

    home: Home
    ports: Ports
    generators: int
    report: Callable[[str], None]


def service_spec(service: str, name: str, variables: Mapping[str, str]) -> ProcessSpec:
    """Return the command and the readiness check of one process of a service."""
    check = None
    if service in ("ingest", "metrics"):
        port = variables["PORT" if service == "ingest" else "METRICS_PORT"]
        url = f"http://127.0.0.1:{port}/readyz"

        async def check() -> bool:
            return await _is_ok(url)

    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-m", f"services.{service}"),
        env=process_environment(with_service_login(service, variables)) | {"PYTHONPATH": str(ROOT)},
        ready_line=_READY_LINES.get(service),
        ready_check=check,
        # a generator waits for provider calls in progress: they are billed
        stop_within_s=170 if service == "generator" else 45,
    )


async def _is_ok(url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2) as client:
            return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


class SandboxSystem:
    """A system in a home. `run_system` creates it and holds the home's lock."""

    def __init__(self, options: SystemOptions, log: RunLog) -> None:
        self._options = options
        self._log = log
        self._started_at = datetime.now(UTC)
        kafka_spec, self._bootstrap = kafka.prepare_server(options.home.kafka, self._report)
        postgres_spec, self._dsn = postgres.prepare_server(options.home.postgres, self._report)
        self.variables = service_environment(
            options.home, options.ports, database_url=self._dsn, bootstrap=self._bootstrap
        )
        stages: list[Stage] = [
            [ChildProcess(kafka_spec, log), ChildProcess(postgres_spec, log)],
            self._migrate,
        ]
        if standins_needed(os.environ):
            stages.append([ChildProcess(self._standins_spec(), log)])
        stages.append(
            [ChildProcess(self._service_spec(name), log) for name in self._process_names()]
        )
        self._supervisor = Supervisor(stages, report=self._report, on_change=self._save_state)
        self._ready = False

    async def run_until_stopped(self, stop: asyncio.Event, started: Callable[[], None]) -> None:
        """Start everything, call `started`, restart processes that exit, and stop at `stop`."""
        self._save_state()
        try:
            await self._supervisor.start_all()
            self._ready = True
            self._save_state()
            started()
            await self._supervisor.watch_until_stopped(stop)
        finally:
            await self._supervisor.stop_all()
            self._options.home.state_file.unlink(missing_ok=True)

    def _process_names(self) -> list[str]:
        return [
            "ingest",
            "scheduler",
            "metrics",
            *(f"generator-{n}" for n in range(1, self._options.generators + 1)),
        ]

    def _service_spec(self, name: str) -> ProcessSpec:
        return service_spec(name.partition("-")[0], name, self.variables)

    def _standins_spec(self) -> ProcessSpec:
        first = self.variables["STANDINS"].partition(",")[0]
        port = self.variables[f"STANDIN_{first.upper()}_PORT"]
        return ProcessSpec(
            name="standins",
            argv=(sys.executable, "-m", "sandbox.providers"),
            env=process_environment(self.variables) | {"PYTHONPATH": str(ROOT)},
            ready_check=lambda: _is_ok(f"http://127.0.0.1:{port}/"),
            stop_within_s=10,
        )

    async def _migrate(self) -> None:
        for migration in await runner.apply_missing(self._dsn):
            self._report(
                migration.message or f"[Migration] {migration.version} {migration.name} applied"
            )
        await grants.prepare_logins(self._dsn, select_logins(self.variables))
        self.variables["TEST_TOKEN"] = await self._test_token()
        self._options.home.write_env(self.variables)

    async def _test_token(self) -> str:
        """Return the test store's API key: the previous one while it is valid, else a new one."""
        previous = self._options.home.read_env().get("TEST_TOKEN", "")
        connection = await connect(self._dsn, deadline_s=30)
        try:
            if previous and await is_valid_key(connection, previous):
                return previous
            return await create_key(connection, TEST_STORE)
        finally:
            await connection.close()

    def _report(self, line: str) -> None:
        self._log.write("blogstream", line)
        self._options.report(line)

    def _save_state(self) -> None:
        ports = self._options.ports
        state = {
            "supervisor": os.getpid(),
            "startedAt": self._started_at,
            "ready": self._ready,
            "standins": standins_needed(os.environ),
            "services": [
                {"name": process.name, "pid": process.pid}
                for process in self._supervisor.started()
                if process.pid is not None
            ],
            "urls": {
                "api": f"http://127.0.0.1:{ports.ingest}",
                "metrics": f"http://127.0.0.1:{ports.metrics}/metrics",
                "dashboard": f"http://127.0.0.1:{ports.metrics}/",
            },
        }
        write_atomically(self._options.home.state_file, orjson.dumps(state))


async def run_system(
    options: SystemOptions,
    stop: asyncio.Event,
    *,
    started: Callable[[SandboxSystem], None],
    console: Callable[[str], None] | None,
) -> None:
    """Run a system in its home until `stop` is set.

    Raises `Unavailable` with a one-line reason when it cannot start.
    """
    with options.home.prepare().locked(), RunLog(options.home.log, console) as log:
        system = SandboxSystem(options, log)
        await system.run_until_stopped(stop, lambda: started(system))
