"""`stores copy`: copies a store to another cell while ingest accepts no request for it.

The jobs keep their ids, so a repeated request names the job that exists, and nothing is paid twice.
Only ended jobs are copied: another one would run in both cells.
"""

import asyncio
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import asyncpg
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition

from admin.context import CommandContext, Subcommands, add_command, print_message
from shared.domain.errors import Unavailable
from shared.domain.job import ENDED
from shared.kafka import clients
from shared.kafka.topics import REQUESTS, SCHEDULER_GROUP
from shared.runtime.postgres import connect, load_queries
from shared.runtime.settings import KafkaSettings

_QUERIES = load_queries(Path(__file__).parent / "sql" / "store_copy.sql")
_JOB_TABLES = (
    "blog_generations",
    "blog_steps",
    "blog_posts",
    "webhook_deliveries",
    "webhook_attempts",
)
_STORE_TABLES = ("store_spend", "store_budgets", "webhook_secrets")
_CONNECT_TIMEOUT_S = 10
_ADMISSION_TIMEOUT_S = 30


def add_copy_command(commands: Subcommands) -> None:
    """Add this command to the parser of `stores`."""
    text = (
        "Copy a store's jobs, posts, keys, webhook secrets, budget and spend to the cell of"
        " TARGET_DATABASE_URL. No request for the store may be accepted meanwhile."
    )
    own = add_command(commands, "copy", _copy, text)
    own.add_argument("store", metavar="STORE", help="the store's name")


def _copy(arguments: Namespace, context: CommandContext) -> int:
    target = context.variable("TARGET_DATABASE_URL")
    if not context.run_with_kafka(_all_requests_are_admitted):
        print_message("accepted requests wait for their admission: a scheduler must run")
        return 1
    refusal = context.run_with_database(lambda source: _copy_store(source, target, arguments.store))
    if refusal is not None:
        print_message(refusal)
    return 0 if refusal is None else 1


async def _all_requests_are_admitted(settings: KafkaSettings) -> bool:
    """Wait until the scheduler has read all requests up to now. Return False at the deadline."""
    async with clients.create_consumer(settings) as consumer:
        ends = await consumer.end_offsets(clients.topic_partitions(settings, REQUESTS))
    written = {partition: end for partition, end in ends.items() if end > 0}
    try:
        async with asyncio.timeout(_ADMISSION_TIMEOUT_S):
            while written and not await _has_read(settings, written):
                await asyncio.sleep(0.5)
    except TimeoutError:
        return False
    return True


async def _has_read(settings: KafkaSettings, ends: Mapping[TopicPartition, int]) -> bool:
    """Return whether the scheduler has read the partitions up to these offsets."""
    group = clients.namespace(settings).group(SCHEDULER_GROUP)
    try:
        read = await clients.fetch_group_offsets(settings, group)
    except GroupCoordinatorNotAvailableError:  # no group has ever used the broker
        return False
    return all(
        partition in read and read[partition].offset >= end for partition, end in ends.items()
    )


async def _copy_store(source: asyncpg.Connection, target_dsn: str, store: str) -> str | None:
    """Copy a store in one transaction. Return why it cannot be copied, or None."""
    target = await connect(target_dsn, deadline_s=_CONNECT_TIMEOUT_S)
    try:
        async with (
            source.transaction(isolation="repeatable_read", readonly=True),
            target.transaction(),
        ):
            refusal = await _find_obstacle(source, target, store)
            if refusal is None:
                await _copy_rows(source, target, store)
            return refusal
    finally:
        await target.close()


async def _find_obstacle(
    source: asyncpg.Connection, target: asyncpg.Connection, store: str
) -> str | None:
    here = await source.fetchrow(_QUERIES["source"], store, list(ENDED))
    assert here is not None
    there = await target.fetchrow(_QUERIES["target"], store, list(ENDED), here["jobs"])
    assert there is not None
    if here["version"] != there["version"]:
        raise Unavailable("the two databases have different migrations: run the same release")
    if not here["known"]:
        return f"no store has the name {store!r}: it has neither a key nor a job"
    if here["open_jobs"]:
        return f"{here['open_jobs']} jobs of {store} have not ended or are not settled: wait"
    if there["other_jobs"]:
        return f"the other cell has {there['other_jobs']} newer or open jobs of {store}"
    return None


async def _copy_rows(source: asyncpg.Connection, target: asyncpg.Connection, store: str) -> None:
    await target.execute(_QUERIES["remove_jobs"], store)
    for table in _JOB_TABLES:
        await _copy_table(source, target, store, table)
    for name in ("remove_spend", "remove_budget", "remove_secrets"):
        await target.execute(_QUERIES[name], store)
    for table in _STORE_TABLES:
        await _copy_table(source, target, store, table)
    await target.execute(_QUERIES["create_key_copy"])
    await _copy_table(source, target, store, "api_keys", to="copied_keys")
    await target.execute(_QUERIES["merge_keys"])
    for name in ("touch_keys", "touch_budget"):
        await target.execute(_QUERIES[name], store)


async def _copy_table(
    source: asyncpg.Connection,
    target: asyncpg.Connection,
    store: str,
    table: str,
    *,
    to: str | None = None,
) -> None:
    """Copy the store's rows of a table, through a temporary file."""
    with tempfile.TemporaryFile() as rows:
        query = _QUERIES[table].rstrip(";")
        await source.copy_from_query(query, store, output=rows, format="binary")
        rows.seek(0)
        await target.copy_to_table(to or table, source=rows, format="binary")
