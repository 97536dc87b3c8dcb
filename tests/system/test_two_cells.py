"""Two cells on one Kafka broker and one PostgreSQL server, made as docs/scaling.md describes.

The first cell is a home without a prefix; the second one has a prefix, a database, roles, ports and
folders of its own. Both have a store of the same name. Imports nothing of the project.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.whole_system import (
    ServiceProcess,
    System,
    free_port,
    run_module,
    temporary_home,
    wait_until,
)

PATH = "/api/blog-generation"
PREFIX = "cell-b."
SERVICES = ("ingest", "scheduler", "generator", "metrics")
pytestmark = pytest.mark.timeout(300)


class Cell:
    """One cell through its variables: its HTTP interface, its database and its topics."""

    def __init__(self, variables: Mapping[str, str], key: str) -> None:
        self.variables = dict(variables)
        self.prefix = variables.get("KAFKA_TOPIC_PREFIX", "")
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{variables['PORT']}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        )

    def submit(self, number: int, key: str | None = None) -> str:
        """Submit a job and return its id."""
        headers = {"Idempotency-Key": key} if key else {}
        body = {"sourceType": "keyword", "sourceId": f"test-load-{number}"}
        answer = self.http.post(PATH, json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def all_done(self, jobs: list[str]) -> bool:
        return all(self.http.get(f"{PATH}/{job}").json().get("status") == "DONE" for job in jobs)

    def listed(self) -> set[str]:
        items = self.http.get(PATH, params={"limit": 100}).json()["items"]
        return {item["id"] for item in items}

    def counted(self) -> dict[str, int]:
        """Return the counts of metrics by status, without zeros."""
        url = f"http://127.0.0.1:{self.variables['METRICS_PORT']}/api/overview"
        jobs = httpx.get(url, timeout=30).json()["jobs"]
        return {status: count for status, count in jobs.items() if count}

    async def rows(self) -> dict[str, str]:
        """Return the status of every job in the cell's database by its id."""
        connection = await asyncpg.connect(self.variables["DATABASE_URL"])
        try:
            found = await connection.fetch("SELECT id, status FROM blog_generations")
        finally:
            await connection.close()
        return {str(row["id"]): row["status"] for row in found}

    async def ended_jobs(self) -> set[str]:
        """Return the jobs that ended by the events on the cell's topic."""
        consumer = AIOKafkaConsumer(
            f"{self.prefix}blog.results",
            bootstrap_servers=self.variables["KAFKA_BOOTSTRAP_SERVERS"],
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        ended = set[str]()
        async with consumer:
            ends = await consumer.end_offsets(consumer.assignment())
            while any([await consumer.position(one) < end for one, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    events = [json.loads(record.value) for record in records]
                    ended |= {event["job"] for event in events if event["kind"] == "ended"}
        return ended

    def dead_letters(self) -> list[dict[str, Any]]:
        listed = run_module(self.variables, "shared.admin", "dead-letters", "list", "--json")
        found: list[dict[str, Any]] = json.loads(listed.stdout)
        return found


class CellProcesses:
    """The processes of the second cell, one of each service."""

    def __init__(self, variables: Mapping[str, str], folder: Path) -> None:
        self._variables = variables
        self._folder = folder
        self._running = dict[str, ServiceProcess]()

    def start(self, service: str) -> None:
        login = "INGEST_DATABASE_URL" if service == "ingest" else "WORKERS_DATABASE_URL"
        own = {**self._variables, "DATABASE_URL": self._variables[login]}
        log = self._folder / f"{service}.log"
        self._running[service] = ServiceProcess(own, service, log)

    def stop(self, service: str) -> None:
        self._running.pop(service).stop()

    def stop_all(self) -> None:
        for service in list(self._running):
            self.stop(service)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with temporary_home() as home:
        made = System(home)
        made.command("up", "--detach")
        yield made
        made.command("down", expect=None)


@pytest.fixture(scope="module")
def first(system: System) -> Cell:
    return Cell(system.variables(), system.variable("TEST_TOKEN"))


@pytest.fixture(scope="module")
def second_variables(system: System, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return _variables_of_second_cell(system.variables(), tmp_path_factory.mktemp("cell-b"))


@pytest.fixture(scope="module")
def processes(
    first: Cell, second_variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CellProcesses]:
    _create_database(first.variables["DATABASE_URL"])
    run_module(second_variables, "migrations", "up")
    started = CellProcesses(second_variables, tmp_path_factory.mktemp("logs"))
    try:
        for service in SERVICES:
            started.start(service)
        ports = [second_variables[name] for name in ("PORT", "METRICS_PORT")]
        wait_until(lambda: all(map(_is_ready, ports)), "the second cell is ready")
        yield started
    finally:
        started.stop_all()


@pytest.fixture(scope="module")
def second(processes: CellProcesses, second_variables: dict[str, str]) -> Cell:
    created = run_module(second_variables, "shared.admin", "keys", "create", "test-store")
    return Cell(second_variables, created.stdout.splitlines()[-1])


def _variables_of_second_cell(first: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the variables of the first cell with everything replaced that a cell owns."""
    port, metrics_port = free_port(), free_port()
    logins = {
        "DATABASE_URL": first["DATABASE_URL"],
        "INGEST_DATABASE_URL": first["INGEST_DATABASE_URL"],
        "WORKERS_DATABASE_URL": first["WORKERS_DATABASE_URL"],
    }
    return {
        **first,
        **{name: _replace_database(address) for name, address in logins.items()},
        "KAFKA_TOPIC_PREFIX": PREFIX,
        "PORT": str(port),
        "METRICS_PORT": str(metrics_port),
        "METRICS_URL": f"http://127.0.0.1:{metrics_port}",
        "INGEST_URL": f"http://127.0.0.1:{port}",
        "METRICS_DIR": str(folder / "metrics"),
        "IMAGE_DIR": str(folder / "images"),
        "IMAGE_BASE_URL": f"http://127.0.0.1:{port}/images",
    }


def _replace_database(address: str) -> str:
    """Return an address of the first cell's database as one of the second cell's.

    The roles belong to the server, so the second cell has roles of its own.
    """
    parts = urlsplit(address)
    login = parts.netloc.replace("blogstream_ingest:", "cell_b_ingest:").replace(
        "blogstream_workers:", "cell_b_workers:"
    )
    return parts._replace(netloc=login, path="/cell_b").geturl()


def _create_database(owner: str) -> None:
    async def create() -> None:
        connection = await asyncpg.connect(owner)
        try:
            await connection.execute("CREATE DATABASE cell_b")
        finally:
            await connection.close()

    asyncio.run(create())


def _is_ready(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).is_success
    except httpx.HTTPError:
        return False


async def test_jobs_end_only_in_their_own_cell(first: Cell, second: Cell) -> None:
    key = "the-same-key-in-both"  # the same store and key: each cell has its own job
    jobs = [first.submit(0, key), *(first.submit(number) for number in range(1, 12))]
    others = [second.submit(0, key), *(second.submit(number) for number in range(1, 8))]
    wait_until(lambda: first.all_done(jobs), "the jobs of the first cell are DONE")
    wait_until(lambda: second.all_done(others), "the jobs of the second cell are DONE")
    assert second.submit(0, key) == others[0]  # a repeat, not another job
    assert await first.rows() == dict.fromkeys(jobs, "DONE")
    assert await second.rows() == dict.fromkeys(others, "DONE")
    assert await first.ended_jobs() == set(jobs)
    assert await second.ended_jobs() == set(others)
    wait_until(lambda: first.counted() == {"DONE": 12}, "metrics of the first cell counts its jobs")
    wait_until(lambda: second.counted() == {"DONE": 8}, "metrics of the second cell counts its own")
    assert first.listed() == set(jobs)
    assert second.listed() == set(others)


def test_key_of_one_cell_is_refused_by_the_other(first: Cell, second: Cell) -> None:
    for cell, other in ((first, second), (second, first)):
        answer = other.http.get(PATH, headers={"Authorization": cell.http.headers["authorization"]})
        assert answer.status_code == 401
    listed = [
        run_module(cell.variables, "shared.admin", "keys", "list", "--json").stdout
        for cell in (first, second)
    ]
    ids = [{entry["id"] for entry in json.loads(text)} for text in listed]
    assert [len(found) for found in ids] == [1, 1]
    assert not ids[0] & ids[1]


def test_image_is_served_by_its_own_cell(first: Cell, second: Cell) -> None:
    for cell in (first, second):
        jobs = cell.http.get(PATH, params={"limit": 1}).json()["items"]
        url = cell.http.get(f"{PATH}/{jobs[0]['id']}").json()["post"]["imageUrl"]
        assert f":{cell.variables['PORT']}/" in url
        assert httpx.get(url).content.startswith(b"\x89PNG")
    folders = [Path(cell.variables["IMAGE_DIR"]) for cell in (first, second)]
    files = [[path for path in folder.rglob("*") if path.is_file()] for folder in folders]
    assert [len(found) for found in files] == [12, 8]


async def test_topics_and_groups_have_the_prefix_of_their_cell(first: Cell, second: Cell) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=first.variables["KAFKA_BOOTSTRAP_SERVERS"])
    await admin.start()
    try:
        topics = {name for name in await admin.list_topics() if not name.startswith("__")}
        groups = {name for name, _ in await admin.list_consumer_groups()}
        read = {
            group: {one.topic for one in await admin.list_consumer_group_offsets(group)}
            for group in groups
        }
    finally:
        await admin.close()
    own = {name for name in topics if not name.startswith(PREFIX)}
    assert {f"{PREFIX}{name}" for name in own} == topics - own
    for group, names in read.items():
        assert all(name.startswith(PREFIX) == group.startswith(PREFIX) for name in names)
    assert {
        f"{prefix}blog-{group}" for prefix in ("", PREFIX) for group in SERVICES[1:]
    } <= read.keys()


async def test_dead_letter_of_one_cell_is_not_seen_by_the_other(first: Cell, second: Cell) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=first.variables["KAFKA_BOOTSTRAP_SERVERS"])
    async with producer:
        await producer.send_and_wait(f"{PREFIX}blog.requests", b"no request", key=b"test-store")
    (letter,) = wait_until(second.dead_letters, "the record is in the dead letter queue")
    assert first.dead_letters() == []
    run_module(second.variables, "shared.admin", "dead-letters", "discard", letter["id"])
    assert second.dead_letters() == []


async def test_moved_store_repeats_no_job(first: Cell, second: Cell) -> None:
    created = run_module(first.variables, "shared.admin", "keys", "create", "mover")
    old = Cell(first.variables, created.stdout.splitlines()[-1])
    job = old.submit(200, "before-the-move")
    wait_until(lambda: old.all_done([job]), "the job is DONE in the old cell")
    copying = {**first.variables, "TARGET_DATABASE_URL": second.variables["DATABASE_URL"]}
    wait_until(
        lambda: (
            run_module(copying, "shared.admin", "stores", "copy", "mover", expect=None).returncode
            == 0
        ),
        "the job is settled, and the store is copied",
    )
    new = Cell(second.variables, created.stdout.splitlines()[-1])
    assert new.submit(200, "before-the-move") == job
    marker = new.submit(201)  # it is admitted after the repeat
    wait_until(lambda: new.all_done([marker]), "a new job is DONE in the new cell")
    posts = [cell.http.get(f"{PATH}/{job}").json() for cell in (old, new)]
    assert posts[0] == posts[1]
    assert _calls_for(first.variables, job) == {"outline": 1, "article": 1}


def _calls_for(variables: Mapping[str, str], job: str) -> dict[str, int]:
    """Return the calls for a job that the OpenAI stand-in has billed."""
    url = f"http://127.0.0.1:{variables['STANDIN_OPENAI_PORT']}/standin/bill"
    steps: dict[str, int] = httpx.get(url).json()["jobs"][job]["steps"]
    return steps


async def test_cell_without_a_scheduler_does_not_hold_up_the_other(
    first: Cell, second: Cell, processes: CellProcesses
) -> None:
    processes.stop("scheduler")
    waiting = second.submit(100)
    jobs = [first.submit(100 + number) for number in range(5)]
    wait_until(lambda: first.all_done(jobs), "the jobs of the first cell are DONE")
    assert waiting not in await second.rows()
    processes.start("scheduler")
    wait_until(lambda: second.all_done([waiting]), "the job of the second cell is DONE")
