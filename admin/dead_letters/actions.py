"""Replaying and discarding: one at a time on a cluster, everything judged before anything is done."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiokafka.errors import KafkaError

from admin import consumer_groups
from admin.dead_letters.reader import open_dead_letters
from admin.dead_letters.rules import DISCARDED, REPLAYED, DeadLetter, HandledMarker, find_destinations
from admin.dead_letters.view import escape_unprintable
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.topics import DEAD_LETTER, TOPICS
from shared.runtime.settings import KafkaSettings

GROUP = "blog-dead-letters"


async def replay_letters(
    settings: KafkaSettings, ids: Sequence[str] | None, say: Callable[[str], None]
) -> int:
    """Send letters (None: all that are open) to where they came from, as they came; how many.

    At least once: what ends this between a letter and its marker lets it be replayed again, and readers drop repeats.
    The records get a new timestamp: with their own, retention could take them before they are read.
    """
    topics = {
        clients.namespace(settings).topic(topic): topic
        for topic in TOPICS
        if topic is not DEAD_LETTER
    }
    async with open_dead_letters(settings) as shelf, hold_handler_lock(settings):
        ledger = await shelf.read()
        letters = ledger.choose(list(ledger.open) if ids is None else ids)
        ways = find_destinations(letters, topics)
        async with _publisher(settings, letters) as publisher:
            for letter, way in zip(letters, ways, strict=True):
                record = await shelf.fetch(letter.partition, letter.offset)
                await publisher.publish_record(
                    way.topic,
                    key=record.key,
                    value=record.value,
                    headers=letter.own_headers,
                    partition=way.partition,
                )
                await _mark(publisher, letter, REPLAYED)
                say(f"replayed {letter.id} to {escape_unprintable(letter.said('topic'))}")
        return len(letters)


async def discard_letters(
    settings: KafkaSettings, ids: Sequence[str] | None, say: Callable[[str], None]
) -> int:
    """Mark letters (None: all that are open) as handled; how many."""
    async with open_dead_letters(settings) as shelf, hold_handler_lock(settings):
        ledger = await shelf.read()
        letters = ledger.choose(list(ledger.open) if ids is None else ids)
        async with _publisher(settings, letters) as publisher:
            for letter in letters:
                await _mark(publisher, letter, DISCARDED)
                say(f"discarded {letter.id}")
        return len(letters)


async def _mark(publisher: Publisher, letter: DeadLetter, action: str) -> None:
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
            f"Kafka stopped taking records ({str(error) or type(error).__name__}); of {len(letters)} letters those"
            " named above are done: `dead-letters list` shows which are still open"
        ) from None


@asynccontextmanager
async def hold_handler_lock(settings: KafkaSettings) -> AsyncIterator[None]:
    """Hold the right to handle letters: the broker's list of a group's members decides.

    Joining comes before looking, so of two that start together at least one sees the other and steps back; a list of
    one means that whoever comes later will see us. After a kill, joining takes the seconds until that session ran out.
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
                "dead letters are being replayed or discarded by another process: try again when it has ended"
            )
        yield
    finally:
        await member.stop()
