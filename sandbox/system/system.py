"""One whole system in one home: servers, stand-ins and services, started in order, watched, stopped in reverse."""

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
    as_role_of,
    process_environment,
    service_environment,
    standins_needed,
)
from sandbox.system.home import ROOT, Home, write_atomically
from sandbox.system.process import Child, Spec
from sandbox.system.run_log import RunLog
from sandbox.system.supervisor import Stage, Supervisor
from shared.domain.api_keys import create_key, is_valid_key
from shared.runtime.postgres import connect

TEST_STORE = "test-store"
_READY_LINES = {"generator": "[Blog Worker] Started successfully", "scheduler": "scheduler started"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. `say` hears a line a happening."""

    home: Home
    ports: Ports
    generators: int
    say: Callable[[str], None]


def service_spec(service: str, name: str, variables: Mapping[str, str]) -> Spec:
    """How to run one process of a service with these variables, and how to know that it is ready."""
    check = None
    if service in ("ingest", "metrics"):
        port = variables["PORT" if service == "ingest" else "METRICS_PORT"]
        url = f"http://127.0.0.1:{port}/readyz"

        async def check() -> bool:
            return await _answers(url)

    return Spec(
        name=name,
        argv=(sys.executable, "-m", f"services.{service}"),
        env=process_environment(as_role_of(service, variables)) | {"PYTHONPATH": str(ROOT)},
        ready_line=_READY_LINES.get(service),
        ready_check=check,
        stop_within_s=170
        if service == "generator"
        else 45,  # it waits for the calls that it is paying for
    )


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2) as client:
            return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


class System:
    """Built by `run`, which holds the home's lock all the while."""

    def __init__(self, plan: Plan, log: RunLog) -> None:
        self._plan = plan
        self._log = log
        self._started_at = datetime.now(UTC)
        kafka_spec, self._bootstrap = kafka.prepare(plan.home.kafka, self._say)
        postgres_spec, self._dsn = postgres.prepare(plan.home.postgres, self._say)
        self.variables = service_environment(
            plan.home, plan.ports, database_url=self._dsn, bootstrap=self._bootstrap
        )
        stages: list[Stage] = [[Child(kafka_spec, log), Child(postgres_spec, log)], self._migrate]
        if standins_needed(os.environ):
            stages.append([Child(self._standins_spec(), log)])
        stages.append([Child(self._service(name), log) for name in self._names()])
        self._supervisor = Supervisor(stages, say=self._say, changed=self._save_state)
        self._ready = False

    async def run(self, stop: asyncio.Event, started: Callable[[], None]) -> None:
        """Start all, call `started`, keep watch until `stop`, stop all."""
        self._save_state()
        try:
            await self._supervisor.start()
            self._ready = True
            self._save_state()
            started()
            await self._supervisor.watch(stop)
        finally:
            await self._supervisor.stop()
            self._plan.home.state_file.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        return [
            "ingest",
            "scheduler",
            "metrics",
            *(f"generator-{n}" for n in range(1, self._plan.generators + 1)),
        ]

    def _service(self, name: str) -> Spec:
        return service_spec(name.partition("-")[0], name, self.variables)

    def _standins_spec(self) -> Spec:
        return Spec(
            name="standins",
            argv=(sys.executable, "-m", "sandbox.providers"),
            env=process_environment(self.variables) | {"PYTHONPATH": str(ROOT)},
            ready_check=lambda: _answers(f"http://127.0.0.1:{self._plan.ports.standin_openai}/"),
            stop_within_s=10,
        )

    async def _migrate(self) -> None:
        for migration in await runner.apply_missing(self._dsn):
            self._say(
                migration.message or f"[Migration] {migration.version} {migration.name} applied"
            )
        await grants.prepare_logins(self._dsn, select_logins(self.variables))
        self.variables["TEST_TOKEN"] = await self._test_token()
        self._plan.home.write_env(self.variables)

    async def _test_token(self) -> str:
        """The key of the test store: the one that this home had before, as long as it works."""
        known = self._plan.home.read_env().get("TEST_TOKEN", "")
        connection = await connect(self._dsn, deadline_s=30)
        try:
            if known and await is_valid_key(connection, known):
                return known
            return await create_key(connection, TEST_STORE)
        finally:
            await connection.close()

    def _say(self, line: str) -> None:
        self._log.write("blogstream", line)
        self._plan.say(line)

    def _save_state(self) -> None:
        ports = self._plan.ports
        state = {
            "supervisor": os.getpid(),
            "startedAt": self._started_at,
            "ready": self._ready,
            "standins": standins_needed(os.environ),
            "services": [
                {"name": part.name, "pid": part.pid}
                for part in self._supervisor.parts()
                if part.pid is not None
            ],
            "urls": {
                "api": f"http://127.0.0.1:{ports.ingest}",
                "metrics": f"http://127.0.0.1:{ports.metrics}/metrics",
                "dashboard": f"http://127.0.0.1:{ports.metrics}/",
            },
        }
        write_atomically(self._plan.home.state_file, orjson.dumps(state))


async def run(
    plan: Plan,
    stop: asyncio.Event,
    *,
    started: Callable[[System], None],
    console: Callable[[str], None] | None,
) -> None:
    """Run a system in its home until `stop`. `Unavailable` with one clear line when it cannot be."""
    with plan.home.prepare().locked(), RunLog(plan.home.log, console) as log:
        system = System(plan, log)
        await system.run(stop, lambda: started(system))
