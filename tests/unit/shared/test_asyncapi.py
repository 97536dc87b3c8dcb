"""docs/asyncapi.json says what the code does: the file is the code's, and the examples are what it describes."""

from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator, ValidationError

from shared import asyncapi
from shared.domain.messages import MESSAGES, Message
from shared.kafka.topics import TOPICS


def payload(message: type[Message]) -> Draft202012Validator:
    document: dict[str, Any] = orjson.loads(asyncapi.DOCUMENT_FILE.read_bytes())
    here = f"#/components/messages/{asyncapi.message_name(message)}/payload"
    return Draft202012Validator(
        {"$ref": here, "components": document["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def test_the_file_is_up_to_date() -> None:
    assert asyncapi.DOCUMENT_FILE.read_bytes() == asyncapi.encode_document(), (
        "run `python -m shared.asyncapi`"
    )


def test_every_topic_and_everybody_who_writes_or_reads_it_is_there() -> None:
    document = asyncapi.build_document()
    assert set(document["channels"]) == {topic.name for topic in TOPICS}
    for topic in TOPICS:
        ours = {name for name in document["operations"] if name.endswith(f".{topic.name}")}
        assert len(ours) == len(topic.producers) + len(topic.consumers)
    for reference in _references(document):
        _follow(document, reference)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.TYPE)
def test_the_example_is_what_the_schema_describes(message: type[Message]) -> None:
    example = asyncapi.load_example(message)
    payload(message).validate(example)
    for name in example:
        if (
            name
            in asyncapi.build_document()["components"]["messages"][asyncapi.message_name(message)][
                "payload"
            ]["required"]
        ):
            with pytest.raises(ValidationError, match=name):
                payload(message).validate(
                    {key: value for key, value in example.items() if key != name}
                )


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return (
        [found for value in node for found in _references(value)] if isinstance(node, list) else []
    )


def _follow(document: Any, reference: str) -> None:
    """KeyError when it leads nowhere."""
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
