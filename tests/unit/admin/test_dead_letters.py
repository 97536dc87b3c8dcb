"""Dead letters, judged and shown without a broker: what is open, where each may go, and how odd records look."""

import json
from collections.abc import Sequence

import pytest
from aiokafka.structs import ConsumerRecord

from admin.dead_letters.rules import (
    DISCARDED,
    REPLAYED,
    DeadLetterIndex,
    DeadLetter,
    HandledMarker,
    DeadLetterError,
    find_destinations,
)
from admin.dead_letters.view import format_line, letter_summary, escape_unprintable, format_letter, letter_details
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
        offset, value=None, headers=HandledMarker(letter=letter, action=action, at="today").headers()
    )


def ledger(*records: ConsumerRecord) -> DeadLetterIndex:
    made = DeadLetterIndex()
    for one in records:
        made.add(one)
    return made


def from_topic(topic: str, partition: str) -> Headers:
    return [("dlq_topic", topic.encode()), ("dlq_partition", partition.encode())]


def refusals(letters: Sequence[DeadLetter]) -> tuple[str, ...]:
    with pytest.raises(DeadLetterError) as caught:
        find_destinations(letters, KNOWN)
    return caught.value.lines


def test_letters_without_a_marker_are_open() -> None:
    read = ledger(record(0), record(1), marker("0-0", 2), record(3))
    assert list(read.open) == ["0-1", "0-3"]
    assert read.handled["0-0"].action == REPLAYED


def test_the_first_marker_counts_and_one_without_its_letter_tells_nothing() -> None:
    read = ledger(
        marker("0-9", 0), record(5), marker("0-5", 6, DISCARDED), marker("0-5", 7, REPLAYED)
    )
    assert not read.open
    assert {one: said.action for one, said in read.handled.items()} == {"0-5": DISCARDED}


@pytest.mark.parametrize(
    "lookalike",
    [
        record(
            1, value=None, headers=[("dlq_handled", b"0-0"), *ORIGIN]
        ),  # a marker that was itself put aside
        record(1, value=b"", headers=[("dlq_handled", b"0-0")]),
        record(1, value=None, headers=[("dlq_handled", b"\xff")]),
        record(1, value=None, headers=[("dlq_handled", "٠-٠".encode())]),
        record(1, value=None, headers=[("dlq_handled", None)]),
    ],
)
def test_what_only_looks_like_a_marker_is_a_letter(lookalike: ConsumerRecord) -> None:
    assert list(ledger(record(0), lookalike).open) == ["0-0", "0-1"]


def test_letters_are_chosen_once_each_and_in_the_order_asked() -> None:
    read = ledger(record(0), record(1), record(2))
    assert [letter.id for letter in read.choose(["0-2", "0-0", "0-2"])] == ["0-2", "0-0"]


def test_every_letter_that_cannot_be_chosen_is_named() -> None:
    with pytest.raises(DeadLetterError) as caught:
        ledger(record(0), record(1), marker("0-0", 2)).choose(["0-1", "0-0", "0-2", "../x"])
    assert caught.value.lines == (
        "0-0 was replayed at today",
        "no dead letter has the id '0-2'",
        "no dead letter has the id '../x'",
    )


def test_a_letter_goes_where_its_key_leads_and_a_task_to_its_own_partition() -> None:
    letters = [
        DeadLetter.of(record()),
        DeadLetter.of(record(headers=from_topic("x.blog.generation", "23"))),
    ]
    assert [(way.topic, way.partition) for way in find_destinations(letters, KNOWN)] == [
        (REQUESTS, None),
        (GENERATION, 23),
    ]


def test_what_this_system_does_not_know_is_not_replayed() -> None:
    letters = [
        DeadLetter.of(record(0)),
        DeadLetter.of(record(1, headers=[])),
        DeadLetter.of(record(2, headers=from_topic("blog.requests", "0"))),
        DeadLetter.of(record(3, headers=from_topic("x.blog.dead-letter", "0"))),
        DeadLetter.of(record(4, headers=from_topic("x.blog.generation", "24"))),
        DeadLetter.of(record(5, headers=from_topic("x.blog.generation", "-1"))),
        DeadLetter.of(record(6, key=None, value=None)),
    ]
    assert refusals(letters) == (
        "0-1 cannot be replayed: it does not say from which topic it came",
        "0-2 cannot be replayed: it came from 'blog.requests', which is no topic of this system",
        "0-3 cannot be replayed: it came from 'x.blog.dead-letter', which is no topic of this system",
        "0-4 cannot be replayed: it came from partition '24', which x.blog.generation does not have",
        "0-5 cannot be replayed: it came from partition '-1', which x.blog.generation does not have",
        "0-6 cannot be replayed: it has neither key nor value",
    )


def test_a_records_own_headers_are_told_apart_and_the_last_of_a_name_counts() -> None:
    letter = DeadLetter.of(
        record(headers=[("ce_type", b"a"), ("ce_type", None), ("dlq_topic", b"forged"), *ORIGIN])
    )
    assert letter.own_headers == [("ce_type", b"a"), ("ce_type", None)]
    assert letter.said("topic") == "x.blog.requests"


def test_a_letter_is_one_line() -> None:
    assert format_line(DeadLetter.of(record())) == (
        "0-0       2026-11-24T10:00:00+00:00  x.blog.requests[3]@17  x.blog-scheduler  InvalidMessage: id: no uuid"
        "  key store-a"
    )


@pytest.mark.parametrize("timestamp", [1_000, -1, 2**62])
def test_a_foreign_record_has_its_line_too(timestamp: int) -> None:
    odd: Headers = [("dlq_reason", b"\x1b[2J\n\xff" + 300 * b"x"), ("dlq_at", None), ("", b"")]
    letter = DeadLetter.of(record(headers=odd, key=None, value=None, timestamp=timestamp))
    told = format_line(letter)
    assert told.isprintable()
    assert "  unknown  no group  no error named: \\x1b[2J\\n\\xffxxx" in told
    assert told.endswith("x…  key none")
    assert letter_summary(letter)["topic"] is None
    json.dumps(letter_summary(letter))


def test_a_letter_in_full() -> None:
    value = '{"id": 1, "title": "Grüner Tee"}'.encode()
    letter = DeadLetter.of(record(headers=[("ce_type", b"a"), ("odd", None)], value=value))
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
def test_any_value_can_be_shown(value: bytes | None, form: str, body: list[str]) -> None:
    letter = DeadLetter.of(record(headers=[], value=value))
    *_, title = (lines := format_letter(letter, value, None).split("\n"))[: -len(body)]
    assert title == f"value ({form})"
    assert lines[-len(body) :] == body
    assert json.loads(json.dumps(letter_details(letter, value, None)))["form"] == form


def test_what_cannot_be_seen_is_escaped() -> None:
    assert escape_unprintable("tea\t\x9b\u202e漢字 –") == "tea\\t\\x9b\\u202e漢字 –"
