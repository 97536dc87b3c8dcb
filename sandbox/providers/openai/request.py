"""Reads a call of either API into one form and refuses what OpenAI refuses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from sandbox.providers.openai.errors import Refusal
from sandbox.providers.openai.models import Catalogue, Model
from sandbox.providers.openai.parameters import (
    Api,
    check_model_rules,
    check_names_and_types,
    requested_effort,
)
from sandbox.providers.openai.schema import SchemaError, check_root, check_strict_schema

_ASSUMED_OUTPUT = 1_000
"""Tokens counted against the limit for a call that names none."""


class OpenAIOptions(BaseModel):
    """What the stand-in does differently from OpenAI's own server. Changed by /standin/options."""

    model_config = ConfigDict(extra="forbid")

    responses_status: int = Field(200, ge=200, le=599)
    """Not 200: /v1/responses answers this, as servers without it do (404, 405, 501)."""
    chat_status: int = Field(200, ge=200, le=599)
    """The same for /v1/chat/completions."""
    refuse_array_bounds: bool = False
    """Refuse `minItems` and `maxItems` in strict schemas."""
    unknown_model_status: int = Field(404, ge=400, le=404)
    """404, or 400 as the Responses API reports some names."""
    reasoning_tokens: int | None = Field(None, ge=0)
    """Spent by every call of a model that reasons; null: by its effort."""
    models: tuple[str, ...] = ()
    """Models beside the known ones. Names like gpt-5* and o* reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A call that is in order. `limit` is the most output tokens, reasoning included."""

    api: Api
    body: Mapping[str, Any]
    model: Model
    effort: str | None
    job: str
    step: str
    prompt: str
    limit: int | None
    output_format: Mapping[str, Any]

    @property
    def needed_tokens(self) -> int:
        return count_tokens(self.prompt) + (self.limit or _ASSUMED_OUTPUT)


def count_tokens(text: str) -> int:
    return len(text) // 4 + 8


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a call, or raise `Refusal`."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, None, "We could not parse the JSON body of your request.")
    return body


def find_job(headers: Mapping[str, str], body: Mapping[str, Any]) -> tuple[str, str]:
    """Return the job and step of a call: of its metadata, its headers, or its schema's name."""
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    job = headers.get("x-blogstream-job") or metadata.get("job", "")
    step = metadata.get("step") or headers.get("x-blogstream-step")
    return str(job), str(step or _format_of(body).get("name") or "")


def read_request(
    api: Api, body: dict[str, Any], headers: Mapping[str, str], options: OpenAIOptions
) -> TextRequest:
    """Check a call and return it. Raises `Refusal`."""
    check_names_and_types(api, body)
    model = find_model(str(body["model"]), options)
    effort = requested_effort(api, body) or model.default_effort
    check_model_rules(api, body, model, effort)
    prompt = read_prompt(body)
    output_format = _format_of(body)
    _check_format(api, output_format, prompt, options)
    job, step = find_job(headers, body)
    return TextRequest(
        api=api,
        body=body,
        model=model,
        effort=effort if model.reasons else None,
        job=job,
        step=step,
        prompt=prompt,
        limit=_find_limit(body),
        output_format=output_format,
    )


def find_model(name: str, options: OpenAIOptions) -> Model:
    """Return the model of a name, or raise `Refusal` with `model_not_found`."""
    model = Catalogue(options.models).find(name)
    if model is not None:
        return model
    if options.unknown_model_status == 400:
        text = f"The requested model '{name}' does not exist."
        raise Refusal(400, "model_not_found", text, param="model")
    text = f"The model `{name}` does not exist or you do not have access to it."
    raise Refusal(options.unknown_model_status, "model_not_found", text)


def read_prompt(body: Mapping[str, Any]) -> str:
    """Return all text that the model reads."""
    if "messages" in body:
        return "\n".join(_text_of(message.get("content")) for message in body["messages"])
    return "\n".join([str(body.get("instructions") or ""), _text_of(body.get("input"))])


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else orjson.dumps(content).decode()


def _find_limit(body: Mapping[str, Any]) -> int | None:
    names = ("max_output_tokens", "max_completion_tokens", "max_tokens")
    return next((body[name] for name in names if body.get(name) is not None), None)


def _format_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the output format in the form of the Responses API."""
    chat = body.get("response_format")
    if isinstance(chat, dict):
        wrapped = chat.get("json_schema")
        return {"type": chat.get("type")} | (wrapped if isinstance(wrapped, dict) else {})
    text = body.get("text")
    found = text.get("format") if isinstance(text, dict) else None
    return found if isinstance(found, dict) else {"type": "text"}


def _check_format(
    api: Api, output_format: Mapping[str, Any], prompt: str, options: OpenAIOptions
) -> None:
    kind = output_format["type"]
    if kind == "json_object" and "json" not in prompt.lower():
        raise _missing_word(api)
    if kind != "json_schema":
        return
    try:
        if output_format.get("strict"):
            check_strict_schema(
                output_format["schema"], refuse_array_bounds=options.refuse_array_bounds
            )
        else:
            check_root(output_format["schema"])
    except SchemaError as error:
        text = f"Invalid schema for response_format '{output_format['name']}': {error}"
        param = "response_format" if api == "chat" else "text.format.schema"
        code = None if api == "chat" else "invalid_json_schema"
        raise Refusal(400, code, text, param=param) from None


def _missing_word(api: Api) -> Refusal:
    if api == "chat":
        text = (
            "'messages' must contain the word 'json' in some form, to use 'response_format' of"
            " type 'json_object'."
        )
        return Refusal(400, None, text, param="messages")
    text = (
        "Response input messages must contain the word 'json' in some form to use 'text.format' of"
        " type 'json_object'."
    )
    return Refusal(400, None, text, param="input")
