"""Decides what a dead-letter record is, which letters are open, and where each is replayed. Pure.

Kafka deletes no single record. To mark a letter as handled, a marker is appended to the topic: a
record without a value whose headers name the letter. Letters without a marker are open.

Committed offsets would not do, because letters are handled in any order and a commit's metadata is
short. A table in PostgreSQL would duplicate the topic and outlive it. A marker lies in the
partition of its letter, so it always comes after the letter, and retention never deletes it first.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from aiokafka.structs import ConsumerRecord

from shared.kafka.envelope import Headers
from shared.kafka.topics import GENERATION, Topic

HEADER_PREFIX = "dlq_"
"""Begins every header that the record did not have itself."""
REPLAYED, DISCARDED = "replayed", "discarded"
_ID = re.compile(r"[0-9]{1,9}-[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]{1,9}")


class DeadLetterError(Exception):
    """A command is refused and has changed nothing. `lines` has one line for each fault."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


def decode_text(content: bytes | None) -> str:
    """Bytes as text. Bytes that are not UTF-8 are escaped; `None` is empty."""
    return (content or b"").decode(errors="backslashreplace")


def last_header(headers: Headers, name: str) -> str:
    """The text of the last header of a name.

    The service that put the record aside appended its headers to the record's own.
    """
    return decode_text(dict(headers).get(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record on the dead letter queue, without its value, because lists may be long.

    Records of other producers may lack every header.
    """

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    size: int | None
    """Bytes of the value; `None` when the record has none."""

    @classmethod
    def from_record(cls, record: ConsumerRecord) -> Self:
        return cls(
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            key=record.key,
            headers=tuple(record.headers),
            size=None if record.value is None else len(record.value),
        )

    @property
    def id(self) -> str:
        return f"{self.partition}-{self.offset}"

    @property
    def at(self) -> str:
        """When the record was put aside; without that header, when it was written to this topic."""
        return self.dlq_header("at") or _format_timestamp(self.timestamp_ms)

    @property
    def own_headers(self) -> list[tuple[str, bytes | None]]:
        """The headers that the record had on its own topic."""
        return [(name, value) for name, value in self.headers if not name.startswith(HEADER_PREFIX)]

    def dlq_header(self, name: str) -> str:
        """The text of the header `dlq_NAME`; empty when there is none."""
        return last_header(self.headers, HEADER_PREFIX + name)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandledMarker:
    """Says that a letter was replayed or discarded, and when."""

    letter: str
    action: str
    at: str

    @classmethod
    def from_record(cls, record: ConsumerRecord) -> Self | None:
        """The marker in a record; `None` for a letter, even if its own headers look like one."""
        letter = last_header(record.headers, "dlq_handled")
        is_letter = record.value is not None or last_header(record.headers, "dlq_topic")
        if is_letter or not _ID.fullmatch(letter):
            return None
        return cls(
            letter=letter,
            action=last_header(record.headers, "dlq_action"),
            at=last_header(record.headers, "dlq_at"),
        )

    def headers(self) -> list[tuple[str, bytes]]:
        texts = {"dlq_handled": self.letter, "dlq_action": self.action, "dlq_at": self.at}
        return [(name, value.encode()) for name, value in texts.items()]


@dataclass(slots=True)
class DeadLetterIndex:
    """The open letters, and the markers of the handled ones, by letter id."""

    open: dict[str, DeadLetter] = field(default_factory=dict)
    handled: dict[str, HandledMarker] = field(default_factory=dict)

    def add_record(self, record: ConsumerRecord) -> None:
        """Add the next record of the topic."""
        marker = HandledMarker.from_record(record)
        if marker is None:
            letter = DeadLetter.from_record(record)
            self.open[letter.id] = letter
        elif self.open.pop(marker.letter, None):  # retention may have deleted the letter
            self.handled[marker.letter] = marker

    def select_open(self, ids: Sequence[str]) -> list[DeadLetter]:
        """The open letters of these ids, each once.

        `DeadLetterError` when one is unknown or already handled.
        """
        wanted = list(dict.fromkeys(ids))
        faults = [self._explain_not_open(one) for one in wanted if one not in self.open]
        if faults:
            raise DeadLetterError(faults)
        return [self.open[one] for one in wanted]

    def _explain_not_open(self, letter: str) -> str:
        if marker := self.handled.get(letter):
            return f"{letter} was {marker.action} at {marker.at}"
        return f"no dead letter has the id {letter!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayDestination:
    topic: Topic
    partition: int | None
    """`None`: the key decides, as it did the first time."""


def find_destinations(
    letters: Sequence[DeadLetter], topics: Mapping[str, Topic]
) -> list[ReplayDestination]:
    """The origin of each letter. `topics` are this system's, by their names on the cluster.

    `DeadLetterError` when a letter cannot be replayed.
    """
    found, faults = [], []
    for letter in letters:
        try:
            found.append(_find_destination(letter, topics))
        except ValueError as error:
            faults.append(f"{letter.id} cannot be replayed: {error}")
    if faults:
        raise DeadLetterError(faults)
    return found


def _find_destination(letter: DeadLetter, topics: Mapping[str, Topic]) -> ReplayDestination:
    name, partition = letter.dlq_header("topic"), letter.dlq_header("partition")
    if not name:
        raise ValueError("it does not say from which topic it came")
    if name not in topics:
        raise ValueError(f"it came from {name!r}, which is no topic of this system")
    if letter.key is None and letter.size is None:
        raise ValueError("it has neither key nor value")  # no producer sends such a record
    topic = topics[name]
    if topic.name != GENERATION.name:
        return ReplayDestination(topic=topic, partition=None)
    # The scheduler chose the worker by its credit, and the partition names the worker. The key
    # would choose another worker.
    if not _NUMBER.fullmatch(partition) or int(partition) >= topic.partitions:
        raise ValueError(f"it came from partition {partition!r}, which {name} does not have")
    return ReplayDestination(topic=topic, partition=int(partition))


def _format_timestamp(timestamp_ms: int) -> str:
    try:
        return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=timestamp_ms)).isoformat()
    except OverflowError:
        return ""
