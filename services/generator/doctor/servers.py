"""Checks PostgreSQL and Kafka: whether they answer, and whether tables and topics are complete."""

import asyncio

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from migrations.runner import MigrationState, list_states
from services.generator.doctor.rules import Cause, Finding, Status
from shared.domain.errors import Unavailable
from shared.kafka.access import check_reachable, client_options, explain_refusal
from shared.kafka.clients import namespace
from shared.kafka.topics import GENERATION, TOPICS, Topic
from shared.runtime.postgres import connect, describe_server
from shared.runtime.settings import KafkaSettings, PostgresSettings

_TIMEOUT_S = 10.0
_POSTGRES = "postgresql"
_KAFKA = "kafka"


async def check_postgres(settings: PostgresSettings) -> list[Finding]:
    """Check that PostgreSQL answers and that all migrations are applied."""
    dsn = settings.database_url.get_secret_value()
    try:
        connection = await connect(dsn, deadline_s=_TIMEOUT_S / 2)
    except Unavailable as error:
        return [_failed(_POSTGRES, str(error), "DATABASE_URL")]
    try:
        has_tables = await connection.fetchval("SELECT to_regclass('blog_generations') IS NOT NULL")
    finally:
        await connection.close()
    server = describe_server(dsn)
    reached = Finding(name=_POSTGRES, status=Status.OK, detail=f"{server} answers")
    return [reached, await _check_migrations(dsn, has_tables=has_tables)]


async def check_kafka(settings: KafkaSettings) -> list[Finding]:
    """Check that Kafka answers and that the topics have their partitions."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            partitions = await _count_partitions(settings)
    except Unavailable as error:
        return [_failed(_KAFKA, str(error), "KAFKA_BOOTSTRAP_SERVERS")]
    except (KafkaError, OSError, TimeoutError) as error:
        return [_describe_kafka_error(settings, error)]
    reached = Finding(
        name=_KAFKA, status=Status.OK, detail=f"{settings.kafka_bootstrap_servers} answers"
    )
    return [reached, judge_topics(settings, partitions)]


def judge_topics(settings: KafkaSettings, partitions: dict[str, int]) -> Finding:
    """Compare the topics on the cluster with the table of topics."""
    names = {namespace(settings).topic(topic): topic for topic in TOPICS}
    missing = [name for name in names if name not in partitions]
    if missing:
        return Finding(
            name="topics",
            status=Status.WARNING,
            detail=f"{', '.join(missing)} do not exist yet: a service creates them at its start"
            " (if services already run, they use another KAFKA_TOPIC_PREFIX)",
            variable="KAFKA_TOPIC_PREFIX",
            cause=Cause.SETUP,
        )
    wrong = [
        f"{name} has {partitions[name]} partitions, and {topic.partitions} are needed"
        for name, topic in names.items()
        if not _has_enough(topic, partitions[name])
    ]
    if wrong:
        return _failed("topics", "; ".join(wrong), "KAFKA_TOPIC_PREFIX")
    generation = partitions[namespace(settings).topic(GENERATION)]
    return Finding(
        name="topics",
        status=Status.OK,
        detail=f"{len(names)} topics; {GENERATION.name} has {generation} partitions, for as many"
        " workers at most",
    )


def judge_migrations(states: list[MigrationState]) -> Finding:
    """Compare the applied migrations with those of this release."""
    pending = [state.version for state in states if state.applied_at is None]
    if pending:
        return _failed(
            "migrations",
            f"{len(pending)} of {len(states)} are not applied (the first is {pending[0]}): run"
            " `python -m migrations up` or `./blogstream migrate up`",
            "DATABASE_URL",
        )
    changed = [state.version for state in states if state.changed]
    if changed:
        return Finding(
            name="migrations",
            status=Status.WARNING,
            detail=f"the files of {', '.join(changed)} have changed since they were applied",
        )
    return Finding(name="migrations", status=Status.OK, detail=f"all {len(states)} are applied")


async def _check_migrations(dsn: str, *, has_tables: bool) -> Finding:
    try:
        return judge_migrations(await list_states(dsn, deadline_s=_TIMEOUT_S / 2))
    except Unavailable as error:
        return _failed(_POSTGRES, str(error), "DATABASE_URL")
    except asyncpg.InsufficientPrivilegeError:  # a service's role
        if not has_tables:
            return _failed("migrations", "none is applied: run `python -m migrations up`", None)
        return Finding(
            name="migrations",
            status=Status.OK,
            detail="the tables exist; this login may not read which migrations are applied, the"
            " tables' owner may (`python -m migrations status`)",
        )


async def _count_partitions(settings: KafkaSettings) -> dict[str, int]:
    """Return the number of partitions of each of our topics that exists."""
    await check_reachable(settings)
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        ours = [name for topic in TOPICS if (name := namespace(settings).topic(topic)) in existing]
        described = await admin.describe_topics(ours) if ours else []
        return {topic["topic"]: len(topic["partitions"]) for topic in described}
    finally:
        await admin.close()


def _has_enough(topic: Topic, partitions: int) -> bool:
    """Return whether a topic can be used. Tasks name their partitions, so any number will do."""
    return partitions == topic.partitions or topic is GENERATION


def _describe_kafka_error(settings: KafkaSettings, error: Exception) -> Finding:
    if (refusal := explain_refusal(settings, error)) is not None:
        return _failed(_KAFKA, refusal, "KAFKA_SECURITY_PROTOCOL")
    reason = str(error) or type(error).__name__
    return _failed(
        _KAFKA,
        f"Kafka at {settings.kafka_bootstrap_servers} does not answer ({reason}); start it, or"
        " check the address",
        "KAFKA_BOOTSTRAP_SERVERS",
    )


def _failed(name: str, detail: str, variable: str | None) -> Finding:
    return Finding(
        name=name, status=Status.FAILED, detail=detail, variable=variable, cause=Cause.SETUP
    )
