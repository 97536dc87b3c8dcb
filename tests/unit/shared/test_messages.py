"""Encoding and decoding of messages, with the example file of each."""

from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from uuid import uuid4

import orjson
import pytest

from shared.domain.errors import InvalidMessage
from shared.domain.job import SourceType, Status
from shared.domain.messages import (
    MESSAGES,
    BlogRequested,
    EventKind,
    JobEvent,
    Message,
    Usage,
    WorkerReport,
)
from shared.kafka.envelope import decode_message, encode_message
from tests.support.message_examples import example_value, type_header

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_example_is_decoded_and_encoded_without_loss(message: type[Message]) -> None:
    read = decode_message(example_value(message), type_header(message))
    assert type(read) is message
    value, ce_headers = encode_message(read, source="test")
    assert orjson.loads(value) == orjson.loads(example_value(message))
    assert decode_message(value, ce_headers) == read


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_example_has_every_field(message: type[Message]) -> None:
    assert set(orjson.loads(example_value(message))) == {field.name for field in fields(message)}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_fields_of_a_later_version_are_ignored(message: type[Message]) -> None:
    later = orjson.loads(example_value(message)) | {"added_later": 1}
    assert decode_message(orjson.dumps(later), type_header(message)) == decode_message(
        example_value(message), type_header(message)
    )


def test_worker_report_of_version_0_1_is_read() -> None:
    former = orjson.loads(example_value(WorkerReport))
    del former["total_partitions"]
    for limiter in former["limiters"]:
        for added in ("serves", "partitions", "carrying", "probe_due"):
            del limiter[added]
    report = decode_message(orjson.dumps(former), type_header(WorkerReport))
    assert isinstance(report, WorkerReport)
    assert report.total_partitions == 24
    limits = [(limiter.serves, limiter.partitions, limiter.carrying) for limiter in report.limiters]
    assert limits == [(None, None, None)]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_cloudevents_headers_are_complete(message: type[Message]) -> None:
    _, ce_headers = encode_message(
        decode_message(example_value(message), type_header(message)), source="ingest-1"
    )
    found = dict(ce_headers)
    assert found["ce_specversion"] == b"1.0"
    assert found["ce_source"] == b"ingest-1"
    assert found["ce_type"] == message.TYPE.encode()
    assert found["ce_id"]
    assert datetime.fromisoformat(found["ce_time"].decode()).tzinfo is not None


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        (None, BlogRequested.TYPE, "an empty record"),
        (b"{}", "", "unknown message type ''"),
        (
            b"{}",
            "blogstream.blog-requested.v9",
            "unknown message type 'blogstream.blog-requested.v9'",
        ),
        (b"{", BlogRequested.TYPE, "body: Invalid JSON"),
        (b"[]", BlogRequested.TYPE, "body"),
        (b'{"id": 1}', BlogRequested.TYPE, "id: UUID input"),
        (b"\xff\xfe", BlogRequested.TYPE, "body"),
    ],
)
def test_undecodable_record_names_the_fault(value: bytes | None, kind: str, reason: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode_message(value, [("ce_type", kind.encode())])
    assert reason in refused.value.reason


def test_record_with_an_empty_header_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="unknown message type ''"):
        decode_message(b"{}", [("ce_type", None)])


def job_event() -> JobEvent:
    return JobEvent(
        job=uuid4(),
        store="a",
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=1,
        at=NOW,
        created_at=NOW,
    )


def test_repeated_event_keeps_its_id() -> None:
    event = job_event()
    assert replace(event, at=datetime.now(UTC), worker="another").event_id() == event.event_id()
    assert replace(event, attempt=2).event_id() != event.event_id()
    assert replace(event, kind=EventKind.STARTED).event_id() != event.event_id()


def test_messages_cannot_be_changed() -> None:
    request = BlogRequested(
        id=uuid4(), store="a", source_type=SourceType.TOPIC, source_id="tea", created_at=NOW
    )
    with pytest.raises(FrozenInstanceError):
        request.store = "b"  # type: ignore[misc] # the assignment must fail


def test_usage_is_added_field_by_field() -> None:
    one = Usage(input_tokens=1, output_tokens=2, reasoning_tokens=1, images=3, cost_nanousd=4)
    assert one + one == Usage(
        input_tokens=2, output_tokens=4, reasoning_tokens=2, images=6, cost_nanousd=8
    )
