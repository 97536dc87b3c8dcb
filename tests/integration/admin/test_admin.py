"""`python -m shared.admin` in the image, without a checkout."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from aiokafka.structs import ConsumerRecord

from sandbox.system.home import ROOT
from shared.domain.api_keys import create_key, is_valid_key
from shared.domain.errors import InvalidMessage
from shared.kafka import clients
from shared.kafka.topics import REQUESTS
from tests.support.backend import Backend, make_request
from tests.support.docker_image import fill, run_in
from tests.support.ingest import insert

RunAdmin: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    app = tmp_path_factory.mktemp("app")
    fill(app)
    return app


@pytest.fixture
def admin(image: Path, backend: Backend, database: str) -> RunAdmin:
    """Runs a command in the image, and checks that its exit code is `code`."""

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {
            "DATABASE_URL": database,
            "KAFKA_BOOTSTRAP_SERVERS": backend.settings.kafka_bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": backend.settings.kafka_topic_prefix,
        }
        ended = run_in(image, "shared.admin", *arguments, **known | environment)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended

    return run


async def test_key_is_created_listed_and_revoked(admin: RunAdmin, backend: Backend) -> None:
    key = admin("keys", "create", "some-shop").stdout.splitlines()[-1]
    operator = admin("keys", "create", "--operator", "ada").stdout.splitlines()[-1]
    assert await is_valid_key(backend.database, key)
    assert await is_valid_key(backend.database, operator)
    (own,) = [
        one
        for one in json.loads(admin("keys", "list", "--json").stdout)
        if one["store"] == "some-shop"
    ]
    assert key.endswith(own["hint"])
    assert f"{own['id']}  some-shop" in admin("keys", "list").stdout
    admin("keys", "revoke", own["id"])
    assert not await is_valid_key(backend.database, key)
    admin("keys", "revoke", own["id"], code=1)
    secret = admin("keys", "webhook-secret", "some-shop").stdout
    assert admin("keys", "webhook-secret", "some-shop").stdout == secret
    assert admin("keys", "webhook-secret", "some-shop", "--rotate").stdout != secret


async def test_unknown_store_gets_no_webhook_secret(admin: RunAdmin, backend: Backend) -> None:
    for options in ([], ["--rotate"]):
        refused = admin("keys", "webhook-secret", "nosuchstore", *options, code=1)
        assert (refused.stdout, refused.stderr) == (
            "",
            "no store has the name 'nosuchstore': it has neither a key nor a job\n",
        )
    assert await backend.database.fetchval("SELECT count(*) FROM webhook_secrets") == 0
    await insert(backend, make_request(store="by-a-job"))
    admin("stores", "set", "by-a-weight")
    for store in ("by-a-job", "by-a-weight"):
        assert admin("keys", "webhook-secret", store).stdout.startswith("whsec_")


def test_stores_are_set_and_listed(admin: RunAdmin) -> None:
    admin("stores", "set", "one", "--account", "both", "--weight", "2", "--account-weight", "3")
    assert "one                       weight 2  account both (3)" in admin("stores", "list").stdout
    assert json.loads(admin("stores", "list", "--json").stdout) == [
        {
            "store": "one",
            "account": "both",
            "weight": 2.0,
            "account_weight": 3.0,
            "served_usd": 0.0,
            "mean_cost_usd": 0.0,
            "settled_jobs": 0,
        }
    ]


async def test_dead_letters_are_listed_and_replayed(admin: RunAdmin, backend: Backend) -> None:
    topic = clients.namespace(backend.settings).topic(REQUESTS)
    record = ConsumerRecord(topic, 3, 17, 1_000, 0, b"store-a", b"\xff", None, 0, 0, ())
    await backend.publisher.publish_dead_letter(
        record, InvalidMessage("no uuid"), group="blog-scheduler"
    )
    (letter,) = json.loads(admin("dead-letters", "list", "--json").stdout)
    assert "InvalidMessage: no uuid" in admin("dead-letters", "list").stdout
    assert (
        json.loads(admin("dead-letters", "show", letter["id"], "--json").stdout)["state"] == "open"
    )
    admin("dead-letters", "replay", letter["id"])
    assert json.loads(admin("dead-letters", "list", "--json").stdout) == []
    admin("dead-letters", "discard", letter["id"], code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["keys"],
        ["keys", "create"],
        ["keys", "create", "a", "--operator", "b"],
        ["stores", "set"],
        ["fly"],
    ],
)
def test_wrong_usage_exits_with_2(image: Path, arguments: list[str]) -> None:
    ended = run_in(image, "shared.admin", *arguments)
    assert (ended.returncode, ended.stderr.startswith("usage: python -m shared.admin")) == (2, True)


@pytest.mark.parametrize("option", ["--weight", "--account-weight"])
@pytest.mark.parametrize("value", ["0", "1001", "nan", "x", ""])
def test_invalid_weight_is_reported_with_its_value(image: Path, option: str, value: str) -> None:
    ended = run_in(image, "shared.admin", "stores", "set", "a", option, value)
    error = f"error: argument {option}: must be a number from 0.001 to 1000, and is {value!r}"
    assert (ended.returncode, ended.stderr.splitlines()[-1].partition(": ")[2]) == (2, error)


def test_missing_dependency_is_one_line(image: Path, admin: RunAdmin, postgres: str) -> None:
    nothing = run_in(image, "shared.admin", "keys", "list")
    assert (nothing.returncode, nothing.stderr) == (3, "DATABASE_URL is not set\n")
    nothing = run_in(image, "shared.admin", "dead-letters", "list")
    assert (nothing.returncode, nothing.stderr) == (3, "KAFKA_BOOTSTRAP_SERVERS is not set\n")
    assert (
        "run `python -m migrations up`"
        in admin("keys", "list", code=3, DATABASE_URL=postgres).stderr
    )
    assert "is no store name" in admin("keys", "create", "no name!", code=3).stderr
    assert (
        "belongs to no account"
        in admin("stores", "set", "a", "--account-weight", "2", code=3).stderr
    )


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [(["keys", "list"], ""), (["keys", "list"], "1"), (["keys", "--help"], "")],
)
async def test_command_ends_silently_when_its_reader_is_gone(
    backend: Backend, database: str, arguments: list[str], unbuffered: str
) -> None:
    """As in `| head`: the write fails at once, or when the process ends."""
    await create_key(backend.database, "some-shop")
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"DATABASE_URL": database, "PYTHONUNBUFFERED": unbuffered}
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "shared.admin", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_closed_stdout_is_no_error() -> None:
    ended = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m shared.admin keys list >&-', sys.executable],
        cwd=ROOT,
        env={},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (3, "DATABASE_URL is not set\n")


def test_help_needs_no_database_or_broker(image: Path) -> None:
    ended = run_in(image, "shared.admin", "keys", "create", "--help")
    assert (ended.returncode, "--operator" in ended.stdout) == (0, True)
