"""Reads a whole answer out of a body of server-sent events, which some gateways send unasked."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from services.generator.providers.openai.answers import list_objects


def looks_like_events(text: str) -> bool:
    """Return whether a body consists of server-sent events."""
    return text.lstrip().startswith(("data:", "event:", ": "))


def read_event_stream(text: str) -> Any:
    """Return the answer that the events make up, or the text itself if they make up none.

    The last event of the Responses API holds the whole answer. The chunks of chat completions are
    joined.
    """
    events = list(_parse_events(text))
    for event in reversed(events):
        if isinstance(event.get("response"), dict) or event.get("error"):
            return event.get("response") or event
    return _join_chunks(events) or text


def _parse_events(text: str) -> Iterator[Mapping[str, Any]]:
    for line in text.splitlines():
        if line.startswith("data:"):
            try:
                event = orjson.loads(line.removeprefix("data:"))
            except orjson.JSONDecodeError:
                continue  # such as [DONE]
            if isinstance(event, dict):
                yield event


def _join_chunks(events: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Join the chunks of a chat completion. Without a reason for its end it is cut: `None`."""
    content, finish, usage = "", None, None
    for event in events:
        usage = event.get("usage") or usage
        for choice in list_objects(event.get("choices")):
            delta = choice.get("delta")
            part = delta.get("content") if isinstance(delta, dict) else None
            content += part if isinstance(part, str) else ""
            finish = choice.get("finish_reason") or finish
    if finish is None:
        return None
    message = {"role": "assistant", "content": content}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
