"""Rules and formatting of dead letters, without a broker."""

import json
from collections.abc import Sequence

import pytest
from aiokafka.structs import ConsumerRecord

from admin.dead_letters.rules import (
    DISCARDED,
    REPLAYED,
    DeadLetter,
    DeadLetterError,
    DeadLetterIndex,
    HandledMarker,
    find_destinations,
)
from admin.dead_letters.view import (
    escape_unprintable,
    format_letter,
    format_line,
    letter_details,
    letter_summary,
)
from shared.kafka.envelope import Headers
from shared.kafka.topics import DEAD_LETTER, GENERATION, REQUESTS, TOPICS

KNOWN = {f"x.{topic.name}": topic for topic in TOPICS if topic is not DEAD_LETTER}
ORIGIN: Headers = [
    ("dlq_topic", b"x.blog.requests"),
    ("dlq_partition", b"3"),
    ("dlq_offset", b"17"),
    ("dlq_timestamp", b"1"),
    ("dlq_group", b"x.blog-scheduler"),
    ("dlq_error", b"InvalidMessage"),
    ("dlq_reason", b"id: no uuid"),
    ("dlq_at", b"2026-11-24T10:00:00+00:00"),
]


def record(
    offset: int = 0,
    *,
    headers: Headers = ORIGIN,
    value: bytes | None = b"{}",
    key: bytes | None = b"store-a",
    timestamp: int = 1_000,
) -> ConsumerRecord:
    return ConsumerRecord(
        "x.blog.dead-letter", 0, offset, timestamp, 0, key, value, None, 0, 0, tuple(headers)
    )


def marker(letter: str, offset: int, action: str = REPLAYED) -> ConsumerRecord:
    return record(
        offset,
        value=None,
        headers=HandledMarker(letter=letter, action=action, at="today").headers(),
    )


def index_of(*records: ConsumerRecord) -> DeadLetterIndex:
    index = DeadLetterIndex()
    for one in records:
        index.add_record(one)
    return index


def from_topic(topic: str, partition: str) -> Headers:
    return [("dlq_topic", topic.encode()), ("dlq_partition", partition.encode())]


def destination_faults(letters: Sequence[DeadLetter]) -> tuple[str, ...]:
    with pytest.raises(DeadLetterError) as caught:
        find_destinations(letters, KNOWN)
    return caught.value.lines


def test_letters_without_marker_are_open() -> None:
    read = index_of(record(0), record(1), marker("0-0", 2), record(3))
    assert list(read.open) == ["0-1", "0-3"]
    assert read.handled["0-0"].action == REPLAYED


def test_first_marker_of_a_letter_counts() -> None:
    read = index_of(
        marker("0-9", 0), record(5), marker("0-5", 6, DISCARDED), marker("0-5", 7, REPLAYED)
    )
    assert not read.open
    assert {letter: marker.action for letter, marker in read.handled.items()} == {"0-5": DISCARDED}


@pytest.mark.parametrize(
    "lookalike",
    [
        record(1, value=None, headers=[("dlq_handled", b"0-0"), *ORIGIN]),
        record(1, value=b"", headers=[("dlq_handled", b"0-0")]),
        record(1, value=None, headers=[("dlq_handled", b"\xff")]),
        record(1, value=None, headers=[("dlq_handled", "٠-٠".encode())]),
        record(1, value=None, headers=[("dlq_handled", None)]),
    ],
)
def test_record_that_resembles_a_marker_is_a_letter(lookalike: ConsumerRecord) -> None:
    assert list(index_of(record(0), lookalike).open) == ["0-0", "0-1"]


def test_letters_are_selected_once_in_the_given_order() -> None:
    read = index_of(record(0), record(1), record(2))
    assert [letter.id for letter in read.select_open(["0-2", "0-0", "0-2"])] == ["0-2", "0-0"]


def test_every_letter_that_cannot_be_selected_is_named() -> None:
    with pytest.raises(DeadLetterError) as caught:
        index_of(record(0), record(1), marker("0-0", 2)).select_open(["0-1", "0-0", "0-2", "../x"])
    assert caught.value.lines == (
        "0-0 was replayed at today",
        "no dead letter has the id '0-2'",
        "no dead letter has the id '../x'",
    )


def test_replayed_task_keeps_its_partition() -> None:
    letters = [
        DeadLetter.from_record(record()),
        DeadLetter.from_record(record(headers=from_topic("x.blog.generation", "23"))),
    ]
    assert [(found.topic, found.partition) for found in find_destinations(letters, KNOWN)] == [
        (REQUESTS, None),
        (GENERATION, 23),
    ]


def test_letters_of_unknown_origin_are_not_replayed() -> None:
    letters = [
        DeadLetter.from_record(record(0)),
        DeadLetter.from_record(record(1, headers=[])),
        DeadLetter.from_record(record(2, headers=from_topic("blog.requests", "0"))),
        DeadLetter.from_record(record(3, headers=from_topic("x.blog.dead-letter", "0"))),
        DeadLetter.from_record(record(4, headers=from_topic("x.blog.generation", "24"))),
        DeadLetter.from_record(record(5, headers=from_topic("x.blog.generation", "-1"))),
        DeadLetter.from_record(record(6, key=None, value=None)),
    ]
    refused = "cannot be replayed: it came from"
    assert destination_faults(letters) == (
        "0-1 cannot be replayed: it does not say from which topic it came",
        f"0-2 {refused} 'blog.requests', which is no topic of this system",
        f"0-3 {refused} 'x.blog.dead-letter', which is no topic of this system",
        f"0-4 {refused} partition '24', which x.blog.generation does not have",
        f"0-5 {refused} partition '-1', which x.blog.generation does not have",
        "0-6 cannot be replayed: it has neither key nor value",
    )


def test_own_headers_are_separated_and_last_dlq_header_counts() -> None:
    letter = DeadLetter.from_record(
        record(headers=[("ce_type", b"a"), ("ce_type", None), ("dlq_topic", b"forged"), *ORIGIN])
    )
    assert letter.own_headers == [("ce_type", b"a"), ("ce_type", None)]
    assert letter.dlq_header("topic") == "x.blog.requests"


def test_letter_is_formatted_on_one_line() -> None:
    assert format_line(DeadLetter.from_record(record())) == (
        "0-0       2026-11-24T10:00:00+00:00  x.blog.requests[3]@17  x.blog-scheduler"
        "  InvalidMessage: id: no uuid  key store-a"
    )


@pytest.mark.parametrize("timestamp", [1_000, -1, 2**62])
def test_foreign_record_is_formatted_on_one_line(timestamp: int) -> None:
    odd: Headers = [("dlq_reason", b"\x1b[2J\n\xff" + 300 * b"x"), ("dlq_at", None), ("", b"")]
    letter = DeadLetter.from_record(record(headers=odd, key=None, value=None, timestamp=timestamp))
    text = format_line(letter)
    assert text.isprintable()
    assert "  unknown  no group  no error named: \\x1b[2J\\n\\xffxxx" in text
    assert text.endswith("x…  key none")
    assert letter_summary(letter)["topic"] is None
    json.dumps(letter_summary(letter))


def test_letter_is_formatted_in_full() -> None:
    value = '{"id": 1, "title": "Grüner Tee"}'.encode()
    letter = DeadLetter.from_record(record(headers=[("ce_type", b"a"), ("odd", None)], value=value))
    assert format_letter(letter, value, None).splitlines() == [
        "id         0-0",
        "put aside  1970-01-01T00:00:01+00:00",
        "came from  unknown",
        "state      open",
        "key        store-a",
        "headers",
        "  ce_type: a",
        "  odd: none",
        "value (json)",
        "{",
        '  "id": 1,',
        '  "title": "Grüner Tee"',
        "}",
    ]
    handled = HandledMarker(letter="0-0", action=DISCARDED, at="today")
    assert "state      discarded at today" in format_letter(letter, value, handled)
    assert letter_details(letter, value, handled)["state"] == DISCARDED


@pytest.mark.parametrize(
    ("value", "form", "body"),
    [
        (None, "empty", ["an empty record"]),
        (b"", "text", [""]),
        (b"two\nlines\x1b", "text", ["two", "lines\\x1b"]),
        (b'{"cut', "text", ['{"cut']),
        (b"NaN", "text", ["NaN"]),
        (b"1e999", "text", ["1e999"]),
        (b'"\\ud800"', "json", ['"\\ud800"']),
        (b"[" * 100_000, "text", ["[" * 100_000]),
        (b"9" * 5_000, "text", ["9" * 5_000]),
        (b"\xff\x00tea", "bytes", ["\\xff\\x00tea"]),
    ],
)
def test_any_value_can_be_formatted(value: bytes | None, form: str, body: list[str]) -> None:
    letter = DeadLetter.from_record(record(headers=[], value=value))
    *_, title = (lines := format_letter(letter, value, None).split("\n"))[: -len(body)]
    assert title == f"value ({form})"
    assert lines[-len(body) :] == body
    assert json.loads(json.dumps(letter_details(letter, value, None)))["form"] == form


def test_unprintable_characters_are_escaped() -> None:
    assert escape_unprintable("tea\t\x9b\u202e漢字 –") == "tea\\t\\x9b\\u202e漢字 –"
