"""The doctor with a real broker and a real database, and as commands."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from migrations.grants import grant_role
from sandbox.system.home import ROOT, free_port
from services.generator.doctor.rules import Finding, Status
from services.generator.doctor.servers import check_kafka, check_postgres, judge_topics
from shared.kafka.clients import ensure_topics, namespace
from shared.kafka.topics import TOPICS
from shared.runtime.settings import KafkaSettings, PostgresSettings
from tests.support.servers import execute
from tests.support.strict_provider import KEY, TOKEN, StrictProvider, start_strict_provider


def statuses(findings: list[Finding]) -> dict[str, Status]:
    return {finding.name: finding.status for finding in findings}


async def check_database(dsn: str) -> list[Finding]:
    return await check_postgres(PostgresSettings.model_validate({"database_url": dsn}))


async def test_migrated_database_is_right(database: str) -> None:
    findings = await check_database(database)
    assert statuses(findings) == {"postgresql": Status.OK, "migrations": Status.OK}


async def test_empty_database_lacks_migrations(postgres: str) -> None:
    reached, migrations = await check_database(postgres)
    assert (reached.status, migrations.status) == (Status.OK, Status.FAILED)
    assert migrations.variable == "DATABASE_URL"
    assert "python -m migrations up" in migrations.detail


async def test_login_of_a_service_needs_no_rights_on_the_migrations(database: str) -> None:
    await execute(database, "CREATE ROLE doctor_worker LOGIN PASSWORD 'worker-password'")
    try:
        await grant_role(database, "doctor_worker", ["generator"])
        address = f"doctor_worker:worker-password@{database.rpartition('@')[2]}"
        findings = await check_database(f"postgresql://{address}")
        assert statuses(findings) == {"postgresql": Status.OK, "migrations": Status.OK}
        assert "may not read which migrations" in findings[1].detail
    finally:
        await execute(database, "DROP OWNED BY doctor_worker")
        await execute(database, "DROP ROLE doctor_worker")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda dsn: f"{dsn.rpartition('/')[0]}/missing", "refuses"),
        (lambda _: "mysql://a:b@localhost/c", "cannot be understood"),
    ],
)
async def test_wrong_database_is_named(change: Any, words: str, database: str) -> None:
    (finding,) = await check_database(change(database))
    assert (finding.status, finding.variable) == (Status.FAILED, "DATABASE_URL")
    assert words in finding.detail


def kafka_settings(servers: str, prefix: str) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {"kafka_bootstrap_servers": servers, "kafka_topic_prefix": prefix}
    )


async def test_missing_topics_are_a_warning_until_a_service_creates_them(
    kafka: str, topic_prefix: str
) -> None:
    settings = kafka_settings(kafka, topic_prefix)
    findings = await check_kafka(settings)
    assert statuses(findings) == {"kafka": Status.OK, "topics": Status.WARNING}
    await ensure_topics(settings)
    findings = await check_kafka(settings)
    assert statuses(findings) == {"kafka": Status.OK, "topics": Status.OK}


async def test_wrong_kafka_is_named() -> None:
    (finding,) = await check_kafka(kafka_settings(f"127.0.0.1:{free_port()}", ""))
    assert (finding.status, finding.variable) == (Status.FAILED, "KAFKA_BOOTSTRAP_SERVERS")


def test_topic_with_another_number_of_partitions_is_named() -> None:
    settings = kafka_settings("kafka:9092", "shop.")
    partitions = {namespace(settings).topic(topic): topic.partitions for topic in TOPICS}
    assert judge_topics(settings, partitions).status is Status.OK
    finding = judge_topics(settings, partitions | {"shop.blog.requests": 3})
    assert finding.status is Status.FAILED
    assert "shop.blog.requests has 3 partitions, and 8 are needed" in finding.detail


def environment(provider: StrictProvider, **changes: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "REPLICATE_API_TOKEN": TOKEN,
        "REPLICATE_BASE_URL": provider.url,
        **changes,
    }


async def run_module(*arguments: str, env: dict[str, str]) -> tuple[int | None, str, str]:
    """Run a module as a process; return its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, env=env, cwd=ROOT, stdout=-1, stderr=-1
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_command_prints_every_check_as_json(
    kafka: str, topic_prefix: str, database: str
) -> None:
    await ensure_topics(kafka_settings(kafka, topic_prefix))
    async with start_strict_provider() as provider:
        env = environment(
            provider,
            DATABASE_URL=database,
            KAFKA_BOOTSTRAP_SERVERS=kafka,
            KAFKA_TOPIC_PREFIX=topic_prefix,
        )
        code, output, errors = await run_module("services.generator.doctor", "--json", env=env)
    found = {check["name"]: check["status"] for check in json.loads(output)}
    assert (code, errors) == (0, "")
    assert found == dict.fromkeys(
        ("postgresql", "migrations", "kafka", "topics", "settings", "openai", "replicate"), "ok"
    )


async def test_command_names_every_fault_and_no_secret() -> None:
    async with start_strict_provider() as provider:
        env = environment(
            provider,
            DATABASE_URL=f"postgresql://me:planted-password@127.0.0.1:{free_port()}/db",
            KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
            OPENAI_API_KEY="planted-key-0123456789",
            REPLICATE_API_TOKEN="planted-token-0123456789",
        )
        provider.echoes_keys = True
        code, output, errors = await run_module("services.generator.doctor", env=env)
    assert code == 1
    assert errors == ""
    failed = {line.split()[1].rstrip(":") for line in output.splitlines() if "failed" in line}
    assert failed == {"postgresql", "kafka", "openai", "replicate"}
    assert "planted" not in output
    for variable in ("DATABASE_URL", "KAFKA_BOOTSTRAP", "OPENAI_API_KEY", "REPLICATE_API_TOKEN"):
        assert variable in output


async def test_unknown_price_does_not_hide_an_unknown_model() -> None:
    async with start_strict_provider() as provider:
        env = environment(
            provider,
            DATABASE_URL="mysql://x",
            KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
            OPENAI_MODEL="gpt-4o-mimi",
        )
        code, output, _ = await run_module("services.generator.doctor", "--json", env=env)
    failed = [
        (check["name"], check["variable"])
        for check in json.loads(output)
        if check["status"] == "failed"
    ]
    assert code == 1
    assert ("settings", "OPENAI_INPUT_PRICE") in failed
    assert ("openai", "OPENAI_MODEL") in failed


async def test_demo_does_not_start_with_a_wrong_key(tmp_path: Path) -> None:
    async with start_strict_provider() as provider:
        env = environment(
            provider, OPENAI_API_KEY="sk-wrong-0123456789", BLOGSTREAM_HOME=str(tmp_path)
        )
        code, _, errors = await run_module("sandbox.cli", "demo", env=env)
    assert code == 3
    assert "openai: the API key is refused" in errors.splitlines()[-1]
    assert "OPENAI_API_KEY is set: the server at" in errors
    assert not (tmp_path / "postgres").exists()


async def test_generator_with_provider_check_ends_with_one_line() -> None:
    async with start_strict_provider() as provider:
        env = environment(
            provider,
            DATABASE_URL="postgresql://nobody@127.0.0.1/none",
            KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
            REPLICATE_API_TOKEN="r8_wrong0123456789",
            PROVIDER_CHECK="true",
        )
        code, output, _ = await run_module("services.generator", env=env)
    assert code == 3
    last = json.loads(output.splitlines()[-1])
    assert "replicate: the API token is refused" in last["event"]
    assert "REPLICATE_API_TOKEN" in last["event"]
