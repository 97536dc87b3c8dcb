"""Letters and what became of them, judged from records alone: no clock and no broker here.

How a letter is known to be handled: Kafka deletes no single record, so a marker is appended to the topic itself, an
empty record that names the letter. Letters without a marker are open. Committed offsets would not do, for letters are
handled in any order and a commit's metadata is short; a table in PostgreSQL would be a second truth about a topic that
outlives it. A marker lies in its letter's own partition, so it comes after it, and retention never takes it first.
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
"""Begins every header that was not the record's own."""
REPLAYED, DISCARDED = "replayed", "discarded"
_ID = re.compile(r"[0-9]{1,9}-[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]{1,9}")


class DeadLetterError(Exception):
    """What was asked for cannot be done, and nothing of it was: a line for each letter that is in the way."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


def decode_text(content: bytes | None) -> str:
    """Bytes as text; what is not UTF-8 is escaped, nothing is empty."""
    return (content or b"").decode(errors="backslashreplace")


def last_header(headers: Headers, name: str) -> str:
    """A header's text; the last one counts, for the one who put the record aside wrote his after the record's own."""
    return decode_text(dict(headers).get(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that was put aside, without its value: lists may be long. Foreign records may lack every header."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    size: int | None
    """Bytes of the value; None when the record is empty."""

    @classmethod
    def of(cls, record: ConsumerRecord) -> Self:
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
        """When it was put aside, or, when nobody says, when it was written here."""
        return self.said("at") or _moment(self.timestamp_ms)

    @property
    def own_headers(self) -> list[tuple[str, bytes | None]]:
        return [(name, value) for name, value in self.headers if not name.startswith(HEADER_PREFIX)]

    def said(self, name: str) -> str:
        return last_header(self.headers, HEADER_PREFIX + name)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandledMarker:
    """What became of a letter, and when."""

    letter: str
    action: str
    at: str

    @classmethod
    def of(cls, record: ConsumerRecord) -> Self | None:
        """The marker that a record is; None when it is a letter, as is one whose own headers only look the same."""
        letter = last_header(record.headers, "dlq_handled")
        if (
            record.value is not None
            or last_header(record.headers, "dlq_topic")
            or not _ID.fullmatch(letter)
        ):
            return None
        return cls(
            letter=letter,
            action=last_header(record.headers, "dlq_action"),
            at=last_header(record.headers, "dlq_at"),
        )

    def headers(self) -> list[tuple[str, bytes]]:
        said = {"dlq_handled": self.letter, "dlq_action": self.action, "dlq_at": self.at}
        return [(name, value.encode()) for name, value in said.items()]


@dataclass(slots=True)
class DeadLetterIndex:
    """The letters that are open, and what became of the others."""

    open: dict[str, DeadLetter] = field(default_factory=dict)
    handled: dict[str, HandledMarker] = field(default_factory=dict)

    def add(self, record: ConsumerRecord) -> None:
        marker = HandledMarker.of(record)
        if marker is None:
            letter = DeadLetter.of(record)
            self.open[letter.id] = letter
        elif self.open.pop(
            marker.letter, None
        ):  # one whose letter retention has taken tells nothing any more
            self.handled[marker.letter] = marker

    def choose(self, ids: Sequence[str]) -> list[DeadLetter]:
        """The open letters of these ids, each once; `DeadLetterError` when one is unknown or was handled."""
        wanted = list(dict.fromkeys(ids))
        missing = [self._why_not(one) for one in wanted if one not in self.open]
        if missing:
            raise DeadLetterError(missing)
        return [self.open[one] for one in wanted]

    def _why_not(self, letter: str) -> str:
        marker = self.handled.get(letter)
        return (
            f"{letter} was {marker.action} at {marker.at}"
            if marker
            else f"no dead letter has the id {letter!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayDestination:
    topic: Topic
    partition: int | None
    """None: the key decides, as it did the first time."""


def find_destinations(letters: Sequence[DeadLetter], topics: Mapping[str, Topic]) -> list[ReplayDestination]:
    """Where each letter came from, `topics` being this system's by their names there; `DeadLetterError` if one cannot go."""
    found, faults = [], []
    for letter in letters:
        try:
            found.append(_destination(letter, topics))
        except ValueError as error:
            faults.append(f"{letter.id} cannot be replayed: {error}")
    if faults:
        raise DeadLetterError(faults)
    return found


def _destination(letter: DeadLetter, topics: Mapping[str, Topic]) -> ReplayDestination:
    name, partition = letter.said("topic"), letter.said("partition")
    if not name:
        raise ValueError("it does not say from which topic it came")
    if name not in topics:
        raise ValueError(f"it came from {name!r}, which is no topic of this system")
    if letter.key is None and letter.size is None:
        raise ValueError("it has neither key nor value")  # no producer sends such a record
    topic = topics[name]
    if topic is not GENERATION:
        return ReplayDestination(topic=topic, partition=None)
    # The scheduler chose the worker by its credit, and the partition names the worker: the key would choose another.
    if not _NUMBER.fullmatch(partition) or int(partition) >= topic.partitions:
        raise ValueError(f"it came from partition {partition!r}, which {name} does not have")
    return ReplayDestination(topic=topic, partition=int(partition))


def _moment(timestamp_ms: int) -> str:
    try:
        return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=timestamp_ms)).isoformat()
    except OverflowError:
        return ""
