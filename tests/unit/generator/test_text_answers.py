"""Reading answers: their text in every wrapping, their usage, and the schema that is sent."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.blog.article import Article, Outline
from services.generator.providers.openai.answers import (
    AnswerState,
    TokenUsage,
    parse_answer,
    read_answer,
    read_usage,
)
from services.generator.providers.openai.client import parse_body
from services.generator.providers.openai.event_streams import looks_like_events, read_event_stream
from services.generator.providers.openai.strict_schema import build_strict_schema
from tests.support.text_answers import OUTLINE, OUTLINE_JSON, chat_answer, response_answer

OLD = orjson.dumps(OUTLINE | {"title": "A first try"}).decode()


@pytest.mark.parametrize(
    "texts",
    [
        (OUTLINE_JSON,),
        (f"```json\n{OUTLINE_JSON}\n```",),
        (f"Here is the plan:\n\n{OUTLINE_JSON}\n\nShall I go on?",),
        (OLD + OUTLINE_JSON,),
        (f"{OLD}\n{OUTLINE_JSON}\n",),
        (OLD, OUTLINE_JSON),
        (OUTLINE_JSON[:30], OUTLINE_JSON[30:]),
        ("I will now plan the post {carefully}.", OUTLINE_JSON),
        (f'{{"outline": {OUTLINE_JSON}}}',),
        (OUTLINE_JSON + OUTLINE_JSON[:40],),
        (f"<think>{{a plan}}</think>{OUTLINE_JSON}",),
    ],
    ids=[
        *("plain", "fenced", "text around", "doubled", "two lines", "two messages"),
        *("one object in two parts", "comment first", "wrapped", "cut second", "thoughts first"),
    ],
)
def test_last_whole_object_is_the_answer(texts: tuple[str, ...]) -> None:
    assert parse_answer(texts, Outline).model_dump() == OUTLINE


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON object"),
        ("I would rather not.", "schema"),
        ('{"title": "x"}', "schema: Field required"),
        (orjson.dumps(OUTLINE | {"headings": []}).decode(), "schema: List should have at least 1"),
        (orjson.dumps(OUTLINE | {"title": ""}).decode(), "schema: String should have at least 1"),
        ("{" * 5_000, "schema"),
    ],
)
def test_misfit_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_answer((text,) if text else (), Outline)


def test_nul_is_removed_from_a_paid_answer() -> None:
    text = OUTLINE_JSON.replace("Herbal", "Her\\u0000bal")
    assert parse_answer((text,), Outline).title == "Herbal tea"


@given(st.text(max_size=200))
def test_no_text_is_too_odd_to_parse(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_answer((text,), Outline), Outline)


@pytest.mark.parametrize("model", [Outline, Article])
def test_schema_stays_in_the_subset_of_strict_mode(model: type[Outline]) -> None:
    schema = build_strict_schema(model)
    allowed = {"type", "properties", "required", "additionalProperties", "items", "$defs", "$ref"}
    assert _keywords(schema) <= allowed
    assert schema is build_strict_schema(model), "built once"
    for part in [schema, *schema.get("$defs", {}).values()]:
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])


def _keywords(schema: Any) -> set[str]:
    found = set(schema)
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    for part in [*inner, *([schema["items"]] if "items" in schema else [])]:
        found |= _keywords(part)
    return found


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (None, None),
        ({}, None),
        (
            {
                "input_tokens": 9,
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 3},
            },
            TokenUsage(input=9, output=5, reasoning=3),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "completion_tokens_details": {"reasoning_tokens": 3},
                "total_tokens": 14,
            },
            TokenUsage(input=9, output=5, reasoning=3),
        ),
        (  # a server that leaves reasoning out of the output
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "completion_tokens_details": {"reasoning_tokens": 30},
                "total_tokens": 44,
            },
            TokenUsage(input=9, output=35, reasoning=30),
        ),
        (
            {"input_tokens": "many", "output_tokens": -4, "total_tokens": 1e300},
            None,
        ),
        ({"input_tokens": 9, "output_tokens": None}, TokenUsage(input=9, output=0, reasoning=0)),
    ],
)
def test_usage_of_either_shape(usage: Any, counted: TokenUsage | None) -> None:
    assert read_usage({"usage": usage}) == counted


def test_body_of_another_kind_is_no_answer() -> None:
    bodies: list[Any] = [None, "text", [], 7, {}, {"ok": True}]
    for body in bodies:
        assert read_answer(body) is None


def test_reasoning_items_are_no_text() -> None:
    thinking = {"type": "reasoning", "summary": [], "content": [{"type": "text", "text": "Hm."}]}
    body = response_answer(OUTLINE_JSON)
    read = read_answer(body | {"output": [thinking, *body["output"]]})
    assert read is not None
    assert read.texts == (OUTLINE_JSON,)


_EVENT = 'event: response.{0}\ndata: {{"type": "response.{0}", "response": {1}}}\n\n'


def test_last_event_holds_the_whole_answer() -> None:
    whole = orjson.dumps(response_answer(OUTLINE_JSON)).decode()
    started = orjson.dumps(response_answer(status="in_progress")).decode()
    text = _EVENT.format("created", started) + _EVENT.format("completed", whole)
    read = read_answer(parse_body(text.encode()))
    assert read is not None
    assert (read.state, read.texts) == (AnswerState.COMPLETE, (OUTLINE_JSON,))


def chunk(content: str, **changes: Any) -> str:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None} | changes
    return f"data: {orjson.dumps({'choices': [choice]}).decode()}\n\n"


def test_chunks_of_a_chat_are_joined() -> None:
    usage = orjson.dumps({"choices": [], "usage": chat_answer("")["usage"]}).decode()
    text = (
        chunk(OUTLINE_JSON[:25])
        + chunk(OUTLINE_JSON[25:])
        + chunk("", finish_reason="stop")
        + f"data: {usage}\n\ndata: [DONE]\n\n"
    )
    read = read_answer(parse_body(text.encode()))
    assert read is not None
    assert (read.state, read.texts) == (AnswerState.COMPLETE, (OUTLINE_JSON,))
    assert read.usage == TokenUsage(input=210, output=90, reasoning=0)


def test_stream_that_breaks_off_is_unreadable() -> None:
    text = chunk(OUTLINE_JSON[:25])
    assert looks_like_events(text)
    assert read_event_stream(text) == text


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"input_tokens": "685", "output_tokens": "600"}, (685, 600)),
        ({"prompt_tokens": 10, "completion_tokens": 20.0}, (10, 20)),
        ({"input_tokens": -5, "output_tokens": 3}, None),
        ({"input_tokens": 5, "output_tokens": 10**18}, None),
        ({"input_tokens": 5, "output_tokens": "many"}, None),
        ({}, None),
    ],
)
def test_usage_is_read_or_impossible(usage: dict[str, Any], tokens: tuple[int, int] | None) -> None:
    read = read_usage({"usage": usage})
    assert (read and (read.input, read.output)) == tokens
