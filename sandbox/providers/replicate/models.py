"""The models that the stand-in has, with their input schemas, and the check of a call's inputs.

Replicate ignores inputs that a model does not know. It refuses unknown properties of the call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.providers.replicate.errors import Problem

_RATIOS = ("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
_TYPES: Mapping[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a model, as its schema declares it."""

    kind: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    default: Any = None
    required: bool = False

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the input."""
        limits = {"minimum": self.minimum, "maximum": self.maximum, "default": self.default}
        given = {name: value for name, value in limits.items() if value is not None}
        return {"type": self.kind} | given | ({"enum": self.choices} if self.choices else {})


_PROMPT = Input(kind="string", required=True)
_SEED = Input(kind="integer")
_QUALITY = Input(kind="integer", minimum=0, maximum=100, default=80)
_SWITCH = Input(kind="boolean", default=False)


def _choice(*choices: str) -> Input:
    return Input(kind="string", choices=choices, default=choices[0])


_FLUX = {
    "prompt": _PROMPT,
    "seed": _SEED,
    "go_fast": Input(kind="boolean", default=True),
    "megapixels": _choice("1", "0.25"),
    "num_outputs": Input(kind="integer", minimum=1, maximum=4, default=1),
    "aspect_ratio": _choice(*_RATIOS),
    "output_format": _choice("webp", "jpg", "png"),
    "output_quality": _QUALITY,
    "disable_safety_checker": _SWITCH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model: its inputs, and whether its output is a list of addresses or one address."""

    name: str
    inputs: Mapping[str, Input] = field(default_factory=lambda: {"prompt": _PROMPT})
    is_list: bool = True

    def check(self, given: Mapping[str, Any], *, refuse_unknown: bool = False) -> list[Problem]:
        """Return what is wrong with the inputs of a call."""
        problems = [
            Problem("required", "input", f"{name} is required")
            for name, declared in self.inputs.items()
            if declared.required and given.get(name) is None
        ]
        for name, value in given.items():
            declared = self.inputs.get(name)
            if declared is None and refuse_unknown:
                text = f"Additional property {name} is not allowed"
                problems.append(Problem("additional_property_not_allowed", "input", text))
            elif declared is not None and value is not None:
                problems += _check_value(name, declared, value)
        return problems

    def choose_format(self, given: Mapping[str, Any]) -> str:
        """Return the format of the file: what the call asks for, or the model's default."""
        declared = self.inputs.get("output_format")
        return str(given.get("output_format") or (declared.default if declared else "png"))

    def as_json(self, base_url: str) -> dict[str, Any]:
        """Return the model as `GET /v1/models/{owner}/{name}` does."""
        owner, name = self.name.split("/", 1)
        address = {"type": "string", "format": "uri"}
        return {
            "url": f"{base_url}/{self.name}",
            "owner": owner,
            "name": name,
            "description": "A stand-in: no model runs.",
            "visibility": "public",
            "run_count": 0,
            "latest_version": {
                "id": version_of(self.name),
                "created_at": "2024-07-30T00:32:11.473557Z",
                "cog_version": "0.9.4",
                "openapi_schema": {
                    "components": {
                        "schemas": {
                            "Input": self._input_schema(),
                            "Output": {"type": "array", "items": address}
                            if self.is_list
                            else address,
                        }
                    }
                },
            },
        }

    def _input_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "title": "Input",
            "required": [name for name, declared in self.inputs.items() if declared.required],
            "properties": {name: declared.schema() for name, declared in self.inputs.items()},
        }


_MODELS = (
    Model(
        name="black-forest-labs/flux-schnell",
        inputs=_FLUX
        | {"num_inference_steps": Input(kind="integer", minimum=1, maximum=4, default=4)},
    ),
    Model(
        name="black-forest-labs/flux-dev",
        inputs=_FLUX
        | {
            "image": Input(kind="string"),
            "guidance": Input(kind="number", minimum=0, maximum=10, default=3),
            "prompt_strength": Input(kind="number", minimum=0, maximum=1, default=0.8),
            "num_inference_steps": Input(kind="integer", minimum=1, maximum=50, default=28),
        },
    ),
    Model(
        name="black-forest-labs/flux-1.1-pro",
        is_list=False,
        inputs={
            "prompt": _PROMPT,
            "seed": _SEED,
            "image_prompt": Input(kind="string"),
            "aspect_ratio": _choice("1:1", "custom", *_RATIOS[1:]),
            "width": Input(kind="integer", minimum=256, maximum=1440),
            "height": Input(kind="integer", minimum=256, maximum=1440),
            "output_format": _choice("webp", "jpg", "png"),
            "output_quality": _QUALITY,
            "prompt_upsampling": _SWITCH,
            "safety_tolerance": Input(kind="integer", minimum=1, maximum=6, default=2),
        },
    ),
    Model(
        name="google/imagen-4-fast",
        is_list=False,
        inputs={
            "prompt": _PROMPT,
            "aspect_ratio": _choice("1:1", "9:16", "16:9", "3:4", "4:3"),
            "output_format": _choice("jpg", "png"),
            "safety_filter_level": _choice(
                "block_only_high", "block_medium_and_above", "block_low_and_above"
            ),
        },
    ),
)


def list_models(extra: Iterable[str]) -> dict[str, Model]:
    """Return all models by name. Extra ones require a prompt and know no other input."""
    return {model.name: model for model in (*_MODELS, *(Model(name=name) for name in extra))}


def version_of(name: str) -> str:
    """Return the id of a model's version: 64 hexadecimal digits made of its name."""
    return name.encode().hex().ljust(64, "0")[:64]


def find_version(version: str, models: Mapping[str, Model]) -> Model | None:
    """Return the model of a version: an id, `owner/name`, or `owner/name:id`."""
    name, _, number = version.partition(":")
    if name in models:
        return models[name] if number in ("", version_of(name)) else None
    return next((model for model in models.values() if version_of(model.name) == version), None)


def _check_value(name: str, declared: Input, value: Any) -> list[Problem]:
    where = f"input.{name}"
    is_bool = isinstance(value, bool) and declared.kind != "boolean"
    if is_bool or not isinstance(value, _TYPES[declared.kind]):
        text = f"Invalid type. Expected: {declared.kind}, given: {_kind_of(value)}"
        return [Problem("invalid_type", where, text)]
    if declared.choices and value not in declared.choices:
        shown = ", ".join(f'"{choice}"' for choice in declared.choices)
        return [Problem("enum", where, f"{name} must be one of the following: {shown}")]
    if declared.minimum is not None and value < declared.minimum:
        text = f"Must be greater than or equal to {declared.minimum:g}"
        return [Problem("number_gte", where, text)]
    if declared.maximum is not None and value > declared.maximum:
        text = f"Must be less than or equal to {declared.maximum:g}"
        return [Problem("number_lte", where, text)]
    return []


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")
