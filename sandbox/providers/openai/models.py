"""The models that the stand-in has, and the parameters that each of them takes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sandbox.providers.openai.errors import Refusal, invalid_value, unsupported_parameter

Api = Literal["responses", "chat"]

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_O_NAME = re.compile(r"^o\d")
_GPT_NAME = re.compile(r"^gpt-[5-9]")
_GPT_5 = ("minimal", "low", "medium", "high")
_GPT_5_1 = ("none", "low", "medium", "high")
_GPT_5_2 = (*_GPT_5_1, "xhigh")
_GPT_5_6 = (*_GPT_5_2, "max")
_O_SERIES = ("low", "medium", "high")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SAMPLING = ("temperature", "top_p")
_CHAT_SAMPLING = ("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias")


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its reasoning efforts, the default one, and its longest output in tokens."""

    name: str
    efforts: tuple[str, ...] = ()
    """Empty: the model does not reason."""
    default_effort: str | None = None
    max_output: int = 16_384

    @property
    def reasons(self) -> bool:
        return bool(self.efforts)


_MODELS = (
    Model("gpt-4o"),
    Model("gpt-4o-mini"),
    Model("gpt-4.1", max_output=32_768),
    Model("gpt-4.1-mini", max_output=32_768),
    Model("gpt-4.1-nano", max_output=32_768),
    Model("gpt-5", _GPT_5, "medium", 128_000),
    Model("gpt-5-mini", _GPT_5, "medium", 128_000),
    Model("gpt-5-nano", _GPT_5, "medium", 128_000),
    Model("gpt-5.1", _GPT_5_1, "none", 128_000),
    Model("gpt-5.2", _GPT_5_2, "none", 128_000),
    Model("gpt-5.4", _GPT_5_2, "none", 128_000),
    Model("gpt-5.4-mini", _GPT_5_2, "none", 128_000),
    Model("gpt-5.5", _GPT_5_2, "medium", 128_000),
    Model("gpt-5.6-luna", _GPT_5_6, "medium", 128_000),
    Model("gpt-5.6-sol", _GPT_5_6, "medium", 128_000),
    Model("gpt-5.6-terra", _GPT_5_6, "medium", 128_000),
    Model("o1", _O_SERIES, "medium", 100_000),
    Model("o3", _O_SERIES, "medium", 100_000),
    Model("o3-mini", _O_SERIES, "medium", 100_000),
    Model("o4-mini", _O_SERIES, "medium", 100_000),
)


class Catalogue:
    """Finds models by name, also by the name of a dated snapshot."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        models = (*map(_describe, extra), *_MODELS)
        self._models = {model.name: model for model in models}

    def names(self) -> list[str]:
        return list(self._models)

    def find(self, name: str) -> Model | None:
        return self._models.get(name) or self._models.get(_SNAPSHOT.sub("", name))


def _describe(name: str) -> Model:
    """Describe a model by its name alone: gpt-5 and later, and o* reason."""
    found = [model for model in _MODELS if name.startswith(model.name)]
    if found:
        nearest = max(found, key=lambda model: len(model.name))
        return Model(name, nearest.efforts, nearest.default_effort, nearest.max_output)
    if _GPT_NAME.match(name):
        return Model(name, _GPT_5_2, "medium", 128_000)
    if _O_NAME.match(name):
        return Model(name, _O_SERIES, "medium", 100_000)
    return Model(name)


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
