"""Decides what a model would write: its reasoning, its text, and where the limit cuts it."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from sandbox.providers.content import writer
from sandbox.providers.faults import ScriptedFault
from sandbox.providers.openai.request import TextRequest, count_tokens

_REASONING_TOKENS = {
    "none": (0, 0),
    "minimal": (0, 60),
    "low": (300, 500),
    "medium": (1_500, 2_500),
    "high": (4_500, 7_500),
    "xhigh": (9_000, 15_000),
}
"""The least and the most reasoning tokens by effort."""
_OVERHEAD = 8
"""Tokens that `count_tokens` adds to each text."""

ANSWER_FAULTS = {"truncated", "refusal", "schema", "content_filter", "reasoning", "slow_body"}
"""Kinds that change an answer. The call is billed."""

Stop = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model wrote. `output_tokens` include `reasoning_tokens`."""

    text: str
    input_tokens: int
    reasoning_tokens: int
    output_tokens: int
    stop: Stop
    refusal: str | None = None

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def write_answer(
    call: TextRequest, fault: ScriptedFault | None, *, seed: int, reasoning_tokens: int | None
) -> Answer:
    """Return the answer to a call. `reasoning_tokens` overrides what the effort would spend."""
    kind = fault.kind if fault is not None else ""
    if kind == "reasoning" and fault is not None:
        reasoning_tokens = fault.tokens
    reasoning = _spend_reasoning(call, seed, reasoning_tokens)
    room = None if call.limit is None else max(0, call.limit - reasoning)
    text, refusal = _write_text(call, kind, seed), None
    if kind == "refusal":
        text, refusal = "", "I can't help with that (scripted)."
    wanted = count_tokens(refusal or text)
    stop: Stop = "stop"
    if room is not None and wanted > room:
        stop, wanted = "length", room
        text = text[: max(0, room - _OVERHEAD) * 4]
    elif kind in ("truncated", "content_filter"):
        stop = "length" if kind == "truncated" else "content_filter"
        text = text[: len(text) // 2]
    return Answer(
        text=text,
        refusal=refusal,
        input_tokens=count_tokens(call.prompt),
        reasoning_tokens=reasoning if room is None else min(reasoning, call.limit or 0),
        output_tokens=wanted + (reasoning if room is None else min(reasoning, call.limit or 0)),
        stop=stop,
    )


def _spend_reasoning(call: TextRequest, seed: int, scripted: int | None) -> int:
    """Return the reasoning tokens of a call. The same prompt and seed spend the same."""
    if not call.model.reasons or call.effort is None:
        return 0
    if scripted is not None:
        return scripted
    digest = hashlib.sha256(f"{seed}\n{call.effort}\n{call.prompt}".encode()).digest()
    return random.Random(digest).randint(*_REASONING_TOKENS.get(call.effort, (9_000, 15_000)))


def _write_text(call: TextRequest, kind: str, seed: int) -> str:
    if kind == "schema":
        return '{"unexpected": true}'
    schema = _find_schema(call)
    if schema is not None:
        return orjson.dumps(writer.write_answer(schema, call.prompt, seed)).decode()
    if call.output_format["type"] == "json_object":
        return '{"answer": "This is a stand-in\'s answer."}'
    return f"This is a stand-in's answer to: {_question(call)[:200]}"


def _question(call: TextRequest) -> str:
    if call.api == "responses":
        return str(call.body.get("input"))
    return str(call.body["messages"][-1].get("content"))


def _find_schema(call: TextRequest) -> dict[str, Any] | None:
    """Return the schema of the answer: of the format, or for JSON mode one that the prompt has."""
    kind = call.output_format["type"]
    if kind == "json_schema":
        schema: dict[str, Any] = call.output_format["schema"]
        return schema
    if kind != "json_object":
        return None
    return next((found for found in _objects(call.prompt) if _is_schema(found)), None)


def _is_schema(found: dict[str, Any]) -> bool:
    return found.get("type") == "object" and isinstance(found.get("properties"), dict)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            found, length = decoder.raw_decode(text[start:])
        except json.JSONDecodeError:
            length = 1
        else:
            yield found
        start = text.find("{", start + length)
