"""Checks the parameters of a call as OpenAI does: names, types, ranges, and the model's own rules.

The tables list each API's parameters with the type that its refusal names.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from sandbox.providers.openai.errors import (
    Refusal,
    invalid_value,
    missing_parameter,
    unknown_parameter,
    unsupported_parameter,
)
from sandbox.providers.openai.models import Model

Api = Literal["responses", "chat"]

_SHARED = {
    "metadata": "an object",
    "model": "a string",
    "moderation": "an object",
    "parallel_tool_calls": "a boolean",
    "prompt_cache_key": "a string",
    "prompt_cache_options": "an object",
    "prompt_cache_retention": "a string",
    "safety_identifier": "a string",
    "service_tier": "a string",
    "store": "a boolean",
    "stream": "a boolean",
    "stream_options": "an object",
    "temperature": "a decimal",
    "tool_choice": "a string or an object",
    "tools": "an array",
    "top_logprobs": "an integer",
    "top_p": "a decimal",
    "user": "a string",
}
_TYPES: Mapping[Api, Mapping[str, str]] = {
    "responses": _SHARED
    | {
        "access_programs": "an array",
        "background": "a boolean",
        "background_options": "an object",
        "context_management": "an array",
        "conversation": "a string or an object",
        "include": "an array",
        "input": "a string or an array",
        "instructions": "a string",
        "max_output_tokens": "an integer",
        "max_tool_calls": "an integer",
        "previous_response_id": "a string",
        "prompt": "an object",
        "reasoning": "an object",
        "text": "an object",
        "truncation": "a string",
    },
    "chat": _SHARED
    | {
        "audio": "an object",
        "frequency_penalty": "a decimal",
        "function_call": "a string or an object",
        "functions": "an array",
        "logit_bias": "an object",
        "logprobs": "a boolean",
        "max_completion_tokens": "an integer",
        "max_tokens": "an integer",
        "messages": "an array",
        "modalities": "an array",
        "n": "an integer",
        "prediction": "an object",
        "presence_penalty": "a decimal",
        "reasoning_effort": "a string",
        "response_format": "an object",
        "seed": "an integer",
        "stop": "a string or an array",
        "verbosity": "a string",
        "web_search_options": "an object",
    },
}
_MOVED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
"""Parameters of Chat Completions by their place in the Responses API."""
_FORMAT = {"type": "a string"}
_JSON_SCHEMA = {
    "name": "a string",
    "schema": "an object",
    "strict": "a boolean",
    "description": "a string",
}
_REASONING = {
    "effort": "a string",
    "summary": "a string",
    "generate_summary": "a string",
    "context": "a string",
    "mode": "a string",
}
_RANGES: Mapping[str, tuple[float | None, float | None]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "max_output_tokens": (16, None),
    "max_completion_tokens": (1, None),
    "max_tokens": (1, None),
    "top_logprobs": (0, 20),
    "n": (1, 128),
}
_SAMPLING = ("temperature", "top_p")
_CHAT_SAMPLING = ("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias")
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_NOT_SERVED = ("stream", "background")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_PAIRS, _KEY_LENGTH, _VALUE_LENGTH = 16, 64, 512


def check_names_and_types(api: Api, body: Mapping[str, Any]) -> None:
    """Raise `Refusal` for an unknown parameter, a wrong type, or a value outside its range."""
    for name in body:
        if api == "responses" and name in _MOVED:
            raise _moved_parameter(name)
        if name not in _TYPES[api]:
            raise unknown_parameter(name)
    _check_types(_TYPES[api], body, "")
    if body.get("model") is None:
        raise missing_parameter("model")
    for name, (lowest, highest) in _RANGES.items():
        if body.get(name) is not None:
            _check_range(name, body[name], lowest, highest)
    _check_metadata(body)
    if api == "responses":
        _check_responses(body)
    else:
        _check_chat(body)
    _check_not_served(body)


def check_model_rules(api: Api, body: Mapping[str, Any], model: Model, effort: str | None) -> None:
    """Raise `Refusal` for a parameter that this model does not take. `effort` is the effective one.

    Models that can switch reasoning off take sampling parameters while it is off.
    """
    _check_effort(api, body, model)
    samples_freely = not model.reasons or effort == "none"
    for name in () if samples_freely else _SAMPLING:
        if body.get(name) is not None:
            raise unsupported_parameter(name)
    if api == "chat" and model.reasons:
        if body.get("max_tokens") is not None:
            raise unsupported_parameter("max_tokens", " Use 'max_completion_tokens' instead.")
        for name in () if samples_freely else _CHAT_SAMPLING:
            if body.get(name) is not None:
                raise unsupported_parameter(name)
    for name in ("max_tokens", "max_completion_tokens") if api == "chat" else ():
        _check_output_limit(name, body.get(name), model)


def requested_effort(api: Api, body: Mapping[str, Any]) -> str | None:
    """Return the effort that a call asks for, or None."""
    if api == "chat":
        return body.get("reasoning_effort")
    effort: str | None = (body.get("reasoning") or {}).get("effort")
    return effort


def _check_types(types: Mapping[str, str], values: Mapping[str, Any], path: str) -> None:
    for name, value in values.items():
        if name not in types:
            raise unknown_parameter(path + name)
        if value is not None and not _KINDS[types[name]](value):
            raise _invalid_type(path + name, types[name], value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "a string": lambda value: isinstance(value, str),
    "a boolean": lambda value: isinstance(value, bool),
    "an integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "a decimal": _is_number,
    "an object": lambda value: isinstance(value, dict),
    "an array": lambda value: isinstance(value, list),
    "a string or an array": lambda value: isinstance(value, str | list),
    "a string or an object": lambda value: isinstance(value, str | dict),
}


def _describe(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, str) and not value:
        return "an empty string"
    exact = ("a boolean", "an integer", "a decimal", "a string", "an array", "an object")
    return next(kind for kind in exact if _KINDS[kind](value))


def _invalid_type(name: str, expected: str, value: object) -> Refusal:
    shown = f"one of {expected}" if " or " in expected else expected
    text = f"Invalid type for '{name}': expected {shown}, but got {_describe(value)} instead."
    return Refusal(400, "invalid_type", text, param=name)


def _moved_parameter(name: str) -> Refusal:
    place = _MOVED[name]
    text = (
        f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to"
        f" '{place}'. Try again with the new parameter. See the API documentation for more"
        " information: https://platform.openai.com/docs/api-reference/responses/create."
    )
    return Refusal(400, "unsupported_parameter", text, param=name)


def _check_range(name: str, value: float, lowest: float | None, highest: float | None) -> None:
    kind = "integer" if isinstance(value, int) and name not in _SAMPLING else "decimal"
    if lowest is not None and value < lowest:
        text = f"{kind} below minimum value. Expected a value >= {lowest}, but got {value} instead."
        raise Refusal(400, f"{kind}_below_min_value", f"Invalid '{name}': {text}", param=name)
    if highest is not None and value > highest:
        text = (
            f"{kind} above maximum value. Expected a value <= {highest}, but got {value} instead."
        )
        raise Refusal(400, f"{kind}_above_max_value", f"Invalid '{name}': {text}", param=name)


def _check_metadata(body: Mapping[str, Any]) -> None:
    metadata = body.get("metadata") or {}
    if len(metadata) > _PAIRS:
        text = (
            f"Invalid 'metadata': too many properties. Expected an object with at most {_PAIRS}"
            f" properties, but got an object with {len(metadata)} properties instead."
        )
        raise Refusal(400, "object_above_max_properties", text, param="metadata")
    for key, value in metadata.items():
        path = f"metadata.{key}"
        if len(key) > _KEY_LENGTH:
            text = (
                f"Invalid property name in 'metadata': '{key}' is too long. Expected a string with"
                f" maximum length {_KEY_LENGTH}, but got a string with length {len(key)} instead."
            )
            raise Refusal(400, "property_name_above_max_length", text, param="metadata")
        if not isinstance(value, str):
            raise _invalid_type(path, "a string", value)
        if len(value) > _VALUE_LENGTH:
            text = (
                f"Invalid '{path}': string too long. Expected a string with maximum length"
                f" {_VALUE_LENGTH}, but got a string with length {len(value)} instead."
            )
            raise Refusal(400, "string_above_max_length", text, param=path)


def _check_responses(body: Mapping[str, Any]) -> None:
    given = ("input", "previous_response_id", "prompt", "conversation")
    if all(body.get(name) is None for name in given):
        text = (
            'One of "input" or "previous_response_id" or "prompt" or "conversation_id" must be'
            " provided."
        )
        raise Refusal(400, "missing_required_parameter", text, param="input")
    text_options = body.get("text") or {}
    _check_types({"format": "an object", "verbosity": "a string"}, text_options, "text.")
    _check_types(_REASONING, body.get("reasoning") or {}, "reasoning.")
    output_format = text_options.get("format") or {"type": "text"}
    if _format_type(output_format, "text.format") == "json_schema":
        _check_types(_FORMAT | _JSON_SCHEMA, output_format, "text.format.")
        _check_schema_name(output_format, "text.format")
    else:
        _check_types(_FORMAT, output_format, "text.format.")


def _check_chat(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if messages is None:
        raise missing_parameter("messages")
    if not messages:
        text = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an"
            " empty array instead."
        )
        raise Refusal(400, "empty_array", text, param="messages")
    for number, message in enumerate(messages):
        _check_message(f"messages[{number}]", message)
    if body.get("metadata") and not body.get("store"):
        text = "The 'metadata' parameter is only allowed when 'store' is enabled."
        raise Refusal(400, None, text, param="metadata")
    output_format = body.get("response_format") or {"type": "text"}
    if _format_type(output_format, "response_format") == "json_schema":
        _check_types(_FORMAT | {"json_schema": "an object"}, output_format, "response_format.")
        wrapped = output_format.get("json_schema")
        if wrapped is None:
            raise missing_parameter("response_format.json_schema")
        _check_types(_JSON_SCHEMA, wrapped, "response_format.json_schema.")
        _check_schema_name(wrapped, "response_format.json_schema")
    else:
        _check_types(_FORMAT, output_format, "response_format.")


def _check_message(path: str, message: object) -> None:
    if not isinstance(message, dict):
        raise _invalid_type(path, "an object", message)
    role = message.get("role")
    if role is None:
        raise missing_parameter(f"{path}.role")
    if role not in _ROLES:
        supported = ", ".join(f"'{name}'" for name in _ROLES[:-1]) + f", and '{_ROLES[-1]}'"
        raise invalid_value(f"{path}.role", role, supported)
    content = message.get("content")
    if content is None and role != "assistant":
        text = f"Invalid type for '{path}.content': expected a string or an array, but got null."
        raise Refusal(400, "invalid_type", text, param=f"{path}.content")
    if content is not None and not isinstance(content, str | list):
        raise _invalid_type(f"{path}.content", "a string or an array", content)


def _format_type(output_format: Mapping[str, Any], path: str) -> str:
    kind = output_format.get("type")
    if kind is None:
        raise missing_parameter(f"{path}.type")
    if kind not in ("text", "json_object", "json_schema"):
        raise invalid_value(f"{path}.type", kind, "'json_object', 'json_schema', and 'text'")
    return str(kind)


def _check_schema_name(wrapped: Mapping[str, Any], path: str) -> None:
    name = wrapped.get("name")
    if name is None:
        raise missing_parameter(f"{path}.name")
    if not name or len(name) > 64 or not all(c.isalnum() or c in "_-" for c in name):
        text = (
            f"Invalid '{path}.name': string does not match pattern. Expected a string that matches"
            " the pattern '^[a-zA-Z0-9_-]+$'."
        )
        raise Refusal(400, "invalid_value", text, param=f"{path}.name")
    if wrapped.get("schema") is None:
        raise missing_parameter(f"{path}.schema")


def _check_not_served(body: Mapping[str, Any]) -> None:
    """Refuse what only this stand-in cannot do, instead of answering something else."""
    for name in _NOT_SERVED:
        if body.get(name):
            text = f"The stand-in does not serve '{name}': true."
            raise Refusal(400, "unsupported_value", text, param=name)
    if (body.get("n") or 1) > 1:
        raise Refusal(400, "unsupported_value", "The stand-in writes one choice.", param="n")


def _check_effort(api: Api, body: Mapping[str, Any], model: Model) -> None:
    name = "reasoning_effort" if api == "chat" else "reasoning.effort"
    asked = requested_effort(api, body)
    if not model.reasons:
        if asked is not None or body.get("reasoning"):
            raise unsupported_parameter(name)
        return
    if asked is not None and asked not in _EFFORTS:
        raise invalid_value(name, asked, _enumerate(_EFFORTS))
    if asked is not None and asked not in model.efforts:
        subject = f"'{asked}' is not supported with the '{model.name}' model"
        if api == "chat":
            subject = f"'{name}' does not support '{asked}' with this model"
        text = f"Unsupported value: {subject}. Supported values are: {_enumerate(model.efforts)}."
        raise Refusal(400, "unsupported_value", text, param=name)


def _enumerate(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words[:-1]) + f", and '{words[-1]}'"


def _check_output_limit(name: str, value: int | None, model: Model) -> None:
    if value is not None and value > model.max_output:
        text = (
            f"{name} is too large: {value}. This model supports at most {model.max_output}"
            f" completion tokens, whereas you provided {value}."
        )
        raise Refusal(400, "invalid_value", text, param=name)
