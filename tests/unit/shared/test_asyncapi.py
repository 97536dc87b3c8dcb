"""docs/asyncapi.json matches the code, and the examples match its schemas."""

from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator, ValidationError

from shared import asyncapi
from shared.domain.messages import MESSAGES, Message
from shared.kafka.topics import TOPICS


def payload_schema(message: type[Message]) -> Draft202012Validator:
    document: dict[str, Any] = orjson.loads(asyncapi.DOCUMENT_FILE.read_bytes())
    reference = f"#/components/messages/{asyncapi.message_name(message)}/payload"
    return Draft202012Validator(
        {"$ref": reference, "components": document["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def test_file_is_up_to_date() -> None:
    assert asyncapi.DOCUMENT_FILE.read_bytes() == asyncapi.encode_document(), (
        "run `python -m shared.asyncapi`"
    )


def test_every_topic_producer_and_consumer_is_documented() -> None:
    document = asyncapi.build_document()
    assert set(document["channels"]) == {topic.name for topic in TOPICS}
    for topic in TOPICS:
        operations = {name for name in document["operations"] if name.endswith(f".{topic.name}")}
        assert len(operations) == len(topic.producers) + len(topic.consumers)
    for reference in _references(document):
        _resolve(document, reference)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_example_matches_its_schema(message: type[Message]) -> None:
    example = asyncapi.load_example(message)
    payload_schema(message).validate(example)
    schema = asyncapi.build_document()["components"]["messages"][asyncapi.message_name(message)]
    for name in example:
        if name in schema["payload"]["required"]:
            others = {key: value for key, value in example.items() if key != name}
            with pytest.raises(ValidationError, match=name):
                payload_schema(message).validate(others)


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return (
        [found for value in node for found in _references(value)] if isinstance(node, list) else []
    )


def _resolve(document: Any, reference: str) -> None:
    """KeyError when the reference has no target."""
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
