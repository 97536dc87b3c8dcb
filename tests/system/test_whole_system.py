"""The whole system from outside, driven by `./blogstream` and over HTTP.

Imports nothing of the project.
"""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer

from tests.support.whole_system import ROOT, System, temporary_home, wait_until

PATH = "/api/blog-generation"
pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with temporary_home() as home:
        made = System(home)
        made.command("up", "--detach")
        yield made
        made.command("down", expect=None)


def post(http: httpx.Client, number: int | str) -> str:
    """Submit a job and return its id; retries while ingest is restarting."""
    give_up = time.monotonic() + 60
    while True:
        try:
            answer = http.post(
                PATH, json={"sourceType": "keyword", "sourceId": f"test-load-{number}"}
            )
            if answer.status_code == 201:
                return str(answer.json()["id"])
        except httpx.TransportError:
            pass
        assert time.monotonic() < give_up, "no request is accepted"
        time.sleep(0.2)


def states(http: httpx.Client, jobs: list[str]) -> Counter[str]:
    return Counter(http.get(f"{PATH}/{job}").json()["status"] for job in jobs)


def all_done(http: httpx.Client, jobs: list[str]) -> bool:
    try:
        return states(http, jobs) == {"DONE": len(jobs)}
    except httpx.TransportError:
        return False


async def count_endings(system: System, jobs: list[str]) -> Counter[str]:
    """Count the different ended events of each job (a repeated event id counts once)."""
    seen: set[tuple[str, str]] = set()
    consumer = AIOKafkaConsumer(
        "blog.results",
        bootstrap_servers=system.variable("KAFKA_BOOTSTRAP_SERVERS"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=3_000,
    )
    async with consumer:
        while batch := await consumer.getmany(timeout_ms=3_000):
            for records in batch.values():
                for record in records:
                    event, headers = json.loads(record.value), dict(record.headers)
                    if event["kind"] == "ended":
                        seen.add((event["job"], headers["ce_id"].decode()))
    counted = Counter(job for job, _ in seen)
    return Counter({job: counted[job] for job in jobs})


def bills(system: System, jobs: list[str]) -> list[dict[str, Any]]:
    """Return the bills of the OpenAI stand-in for these jobs."""
    port = system.variable("STANDIN_OPENAI_PORT")
    billed = httpx.get(f"http://127.0.0.1:{port}/standin/bill").json()["jobs"]
    return [billed[job] for job in jobs]


def test_released_endpoints_and_log_lines_are_unchanged(system: System) -> None:
    with system.http() as http:
        assert http.get("/health").json()["status"] == "ok"
        answer = http.post(PATH, json={"sourceType": "keyword", "sourceId": "test-load-1"})
        assert answer.status_code == 201
        wait_until(lambda: all_done(http, [answer.json()["id"]]), "the job is DONE")
        job = http.get(answer.headers["location"]).json()
        assert job["post"]["html"].startswith("<article>")
        assert httpx.get(job["post"]["imageUrl"]).content.startswith(b"\x89PNG")
        assert set(http.get("/metrics").json()) == {
            "blog_queue_size",
            "openai_rpm_usage",
            "openai_tpm_usage",
            "openai_queue_length",
        }
        limiter = http.get("/api/rate-limiter/stats").json()
        assert limiter["status"] == "ok"
        assert set(limiter["rateLimiter"]) == {"openai", "replicate"}
    log = (system.home / "logs" / "app.log").read_text()
    for line in (
        "[Blog Worker] Starting with parallel batch processing...",
        "[Blog Worker] Config: 50 concurrent, 100 batch size, 20 max per instance",
        "[Blog Worker] Started successfully",
    ):
        assert line in log


def test_keys_are_created_listed_and_revoked(system: System) -> None:
    key = system.command("keys", "create", "some-shop").stdout.splitlines()[-1]
    assert key.startswith("sk_live_")
    listed = json.loads(system.command("keys", "list", "--json").stdout)
    entry = next(entry for entry in listed if entry["store"] == "some-shop")
    assert key not in json.dumps(listed)
    with system.http() as http:
        headers = {"Authorization": f"Bearer {key}"}
        assert http.get(PATH, headers=headers).json() == {"items": [], "next": None}
        system.command("keys", "revoke", entry["id"])
        wait_until(
            lambda: http.get(PATH, headers=headers).status_code == 401, "the revoked key stops", 10
        )
    system.command("keys", "revoke", entry["id"], expect=1)
    system.command("keys", "create", "no store name!", expect=3)
    operator = system.command("keys", "create", "--operator", "ada").stdout.splitlines()[-1]
    assert operator.startswith("sk_operator_")
    listed = json.loads(system.command("keys", "list", "--json").stdout)
    assert [entry["scope"] for entry in listed if entry["name"] == "ada"] == ["operator"]
    system.command("keys", "create", "some-shop", "--operator", "ada", expect=2)
    secret = system.command("keys", "webhook-secret", "some-shop").stdout.splitlines()[-1]
    assert secret.startswith("whsec_")
    assert system.command("keys", "webhook-secret", "some-shop").stdout.splitlines()[-1] == secret
    assert (
        system.command("keys", "webhook-secret", "some-shop", "--rotate").stdout.splitlines()[-1]
        != secret
    )


def test_a_second_start_in_the_same_home_fails_with_one_line(system: System) -> None:
    done = system.command("up", "--detach", expect=3)
    assert done.stderr.strip().startswith("blogstream: a system is already running in")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_taken_port_fails_with_one_line(system: System, tmp_path: Path) -> None:
    environment = system.environment | {"BLOGSTREAM_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [ROOT / "blogstream", "up"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    port = system.environment["PORT"]
    assert (
        done.stderr.strip()
        == f"blogstream: port {port} is taken; set PORT to another one, or stop what listens there"
    )


@pytest.mark.parametrize(
    "victim", ["generator-1", "scheduler", "ingest", "metrics", "postgres", "kafka"]
)
async def test_kill_9_loses_no_job_and_repeats_no_job(system: System, victim: str) -> None:
    with system.http() as http:
        before = system.pid(victim)
        jobs = [post(http, f"{victim}-{number}") for number in range(15)]
        wait_until(lambda: states(http, jobs)["PENDING"] < len(jobs), "work has begun")
        os.kill(before, signal.SIGKILL)
        jobs += [post(http, f"{victim}-{number}") for number in range(15, 25)]
        wait_until(lambda: all_done(http, jobs), "every accepted job is DONE", 150)
        wait_until(lambda: system.pid(victim) != before, "it was started again")
    assert await count_endings(system, jobs) == Counter(dict.fromkeys(jobs, 1))
    in_flight_at_the_kill = 1 if victim == "generator-1" else 0
    for bill in bills(system, jobs):
        assert all(1 <= calls <= 1 + in_flight_at_the_kill for calls in bill["steps"].values())
        assert set(bill["steps"]) == {"outline", "article"}
    log = (system.home / "logs" / "app.log").read_text()
    assert f"{victim} (pid {before}) was killed by SIGKILL; its last lines:" in log


async def test_a_second_generator_shares_partitions_and_drains(
    system: System,
) -> None:
    more = system.start("run", "generator")
    try:
        wait_until(
            lambda: _partition_counts(system) == [12, 12], "two workers share the partitions"
        )
        with system.http() as http:
            jobs = [post(http, f"more-{number}") for number in range(20)]
            wait_until(lambda: states(http, jobs)["DONE"] > 0, "work has begun")
            more.send_signal(signal.SIGINT)
            assert more.wait(60) == 0
            wait_until(lambda: all_done(http, jobs), "every job is DONE")
    finally:
        more.kill()
    wait_until(lambda: _partition_counts(system) == [24], "one worker has all partitions again")
    assert await count_endings(system, jobs) == Counter(dict.fromkeys(jobs, 1))
    assert all(bill["steps"] == {"outline": 1, "article": 1} for bill in bills(system, jobs))


def _partition_counts(system: System) -> list[int]:
    members = system.status()["groups"].get("blog-generator", {}).get("members", [])
    return sorted(len(member["partitions"].get("blog.generation", [])) for member in members)


def test_down_stops_the_processes_of_a_killed_supervisor(system: System) -> None:
    state = json.loads((system.home / "run.json").read_text())
    os.kill(state["supervisor"], signal.SIGKILL)
    wait_until(lambda: not _is_alive(state["supervisor"]), "the supervisor is gone", 10)
    assert "was killed and left" in system.command("status", expect=3).stderr
    text = system.command("down").stderr
    assert all(
        f"{service['name'].partition('-')[0]} (pid {service['pid']})" in text
        for service in state["services"]
    )
    assert not any(_is_alive(service["pid"]) for service in state["services"])
    assert "nothing runs in" in system.command("down", expect=3).stderr
    system.command("up", "--detach")


async def test_a_new_start_continues_after_every_process_was_killed(system: System) -> None:
    with system.http() as http:
        jobs = [post(http, f"all-{number}") for number in range(20)]
    state = json.loads((system.home / "run.json").read_text())
    for pid in (state["supervisor"], *(service["pid"] for service in state["services"])):
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: not any(_is_alive(service["pid"]) for service in state["services"]),
        "all are gone",
        30,
    )
    system.command("up", "--detach")
    with system.http() as http:
        wait_until(lambda: all_done(http, jobs), "every accepted job is DONE", 150)
    assert await count_endings(system, jobs) == Counter(dict.fromkeys(jobs, 1))
    connection = await asyncpg.connect(system.variable("DATABASE_URL"))
    try:
        rows = await connection.fetch(
            "SELECT status, COUNT(*) FROM blog_generations"
            " WHERE source_id LIKE 'test-load-%' GROUP BY status"
        )
    finally:
        await connection.close()
    assert [row["status"] for row in rows] == ["DONE"]


def _is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
