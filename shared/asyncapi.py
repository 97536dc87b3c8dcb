"""Builds docs/asyncapi.json (AsyncAPI 3.0) from topics and messages.

`python -m shared.asyncapi` writes the file. A changed message shows up there in review. Tests
compare the examples with the schemas, and the file with the code.
"""

from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from shared.domain.messages import MESSAGES, Message
from shared.kafka.topics import (
    DEAD_LETTER,
    GENERATOR_GROUP,
    METRICS_GROUP,
    SCHEDULER_GROUP,
    TOPICS,
    WEBHOOKS_GROUP,
    Topic,
)

Document = dict[str, Any]

ROOT = Path(__file__).parents[1]
DOCUMENT_FILE = ROOT / "docs" / "asyncapi.json"
_EXAMPLES = ROOT / "shared" / "examples"
_GROUPS = (SCHEDULER_GROUP, GENERATOR_GROUP, METRICS_GROUP, WEBHOOKS_GROUP)
_HEADERS = {
    "type": "object",
    "description": "CloudEvents, binary mode",
    "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type"],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "readers drop repeats by it"},
        "ce_type": {"type": "string"},
        "ce_source": {"type": "string", "description": "the process that sent the message"},
        "ce_time": {"type": "string", "format": "date-time"},
        "content-type": {"const": "application/json"},
    },
}


def build_document() -> Document:
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "blogstream",
            "version": "1",
            "description": "Topics and messages between the services."
            " Delivery is at least once; every effect is idempotent."
            f" Consumer groups: {', '.join(_GROUPS)}.",
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {
            name: operation for topic in TOPICS for name, operation in _operations(topic).items()
        },
        "components": {
            "messages": {message_name(message): _message(message) for message in MESSAGES}
        },
    }


def message_name(message: type[Message]) -> str:
    """The name of a message in the document and of its example file, such as blog-requested.v1."""
    return message.TYPE.removeprefix("blogstream.")


def load_example(message: type[Message]) -> Any:
    return orjson.loads((_EXAMPLES / f"{message_name(message)}.json").read_bytes())


def encode_document() -> bytes:
    return orjson.dumps(build_document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _channel(topic: Topic) -> Document:
    return {
        "address": topic.name,
        "description": "unchanged records of any topic; the headers dlq_* have their origin and the"
        " reason"
        if topic is DEAD_LETTER
        else f"key: {topic.key}",
        "messages": {
            message_name(message): {"$ref": f"#/components/messages/{message_name(message)}"}
            for message in topic.messages
        },
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": ["compact" if topic.compacted else "delete"],
                    "retention.ms": topic.retention_ms,
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operations(topic: Topic) -> Document:
    uses = [(service, "send") for service in topic.producers] + [
        (service, "receive") for service in topic.consumers
    ]
    return {
        f"{service}.{action}.{topic.name}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{topic.name}"},
            "messages": [
                {"$ref": f"#/channels/{topic.name}/messages/{message_name(message)}"}
                for message in topic.messages
            ],
        }
        for service, action in uses
    }


def _message(message: type[Message]) -> Document:
    definitions = f"#/components/messages/{message_name(message)}/payload/$defs/{{model}}"
    schema = TypeAdapter(message).json_schema(ref_template=definitions)
    return {
        "name": message.TYPE,
        "summary": (message.__doc__ or "").strip(),
        "headers": _HEADERS,
        "payload": schema,
        "examples": [{"payload": load_example(message)}],
    }


if __name__ == "__main__":
    DOCUMENT_FILE.write_bytes(encode_document())
