"""Replays and discards dead letters: one process at a time, after every letter was checked."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from aiokafka.errors import KafkaError

from admin import consumer_groups
from admin.dead_letters.reader import open_dead_letters
from admin.dead_letters.rules import (
    DISCARDED,
    REPLAYED,
    DeadLetter,
    HandledMarker,
    find_destinations,
)
from admin.dead_letters.view import escape_unprintable
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.topics import DEAD_LETTER, GENERATION, TOPICS
from shared.runtime.settings import KafkaSettings

GROUP = "blog-dead-letters"


async def replay_letters(
    settings: KafkaSettings, ids: Sequence[str] | None, print_line: Callable[[str], None]
) -> int:
    """Send letters unchanged to the topics they came from, and mark them. Return how many.

    `ids` of `None` selects all open letters. Delivery is at least once: a process that ends between
    a letter and its marker leaves the letter open, and readers drop repeats. The records get a new
    timestamp; with the old one, retention could delete them before they are read.
    """
    names = clients.namespace(settings)
    topics = {names.topic(topic): topic for topic in TOPICS if topic is not DEAD_LETTER}
    partitions = await clients.fetch_partitions(settings, GENERATION)
    topics[names.topic(GENERATION)] = replace(GENERATION, partitions=len(partitions))
    async with open_dead_letters(settings) as reader, hold_handler_lock(settings):
        index = await reader.read_index()
        letters = index.select_open(list(index.open) if ids is None else ids)
        destinations = find_destinations(letters, topics)
        async with _publisher(settings, letters) as publisher:
            for letter, destination in zip(letters, destinations, strict=True):
                record = await reader.fetch_record(letter.partition, letter.offset)
                await publisher.publish_record(
                    destination.topic,
                    key=record.key,
                    value=record.value,
                    headers=letter.own_headers,
                    partition=destination.partition,
                )
                await _publish_marker(publisher, letter, REPLAYED)
                topic = escape_unprintable(letter.dlq_header("topic"))
                print_line(f"replayed {letter.id} to {topic}")
        return len(letters)


async def discard_letters(
    settings: KafkaSettings, ids: Sequence[str] | None, print_line: Callable[[str], None]
) -> int:
    """Mark letters (`None`: all open ones) as handled. Return how many."""
    async with open_dead_letters(settings) as reader, hold_handler_lock(settings):
        index = await reader.read_index()
        letters = index.select_open(list(index.open) if ids is None else ids)
        async with _publisher(settings, letters) as publisher:
            for letter in letters:
                await _publish_marker(publisher, letter, DISCARDED)
                print_line(f"discarded {letter.id}")
        return len(letters)


async def _publish_marker(publisher: Publisher, letter: DeadLetter, action: str) -> None:
    marker = HandledMarker(letter=letter.id, action=action, at=datetime.now(UTC).isoformat())
    await publisher.publish_record(
        DEAD_LETTER,
        key=letter.id.encode(),
        value=None,
        headers=marker.headers(),
        partition=letter.partition,
    )


@asynccontextmanager
async def _publisher(
    settings: KafkaSettings, letters: Sequence[DeadLetter]
) -> AsyncIterator[Publisher]:
    try:
        async with Publisher(settings, source="dead-letters") as publisher:
            yield publisher
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(
            f"Kafka stopped taking records ({str(error) or type(error).__name__}); of"
            f" {len(letters)} letters those named above are done: `dead-letters list` shows which"
            " are still open"
        ) from None


@asynccontextmanager
async def hold_handler_lock(settings: KafkaSettings) -> AsyncIterator[None]:
    """Hold the right to handle letters. `Unavailable` while another process has it.

    The lock is membership in a consumer group. A process joins first and lists the members then: of
    two that start together at least one sees the other and steps back, and a process that is alone
    in the list is seen by all later ones. After a kill, joining takes until the killed session
    times out (6 s).
    """
    group = clients.namespace(settings).group(GROUP)
    member = clients.create_consumer(
        settings,
        clients.namespace(settings).topic(DEAD_LETTER),
        group_id=group,
        session_timeout_ms=6_000,
        heartbeat_interval_ms=1_000,
        max_poll_interval_ms=24 * 3_600_000,
    )
    try:
        await member.start()
        if len((await consumer_groups.fetch_group_members(settings, [group]))[group]) > 1:
            raise Unavailable(
                "dead letters are being replayed or discarded by another process: try again when"
                " it has ended"
            )
        yield
    finally:
        await member.stop()
