"""Builds the JSON schema of an answer inside the subset that strict mode documents."""

from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel

_KEYWORDS = {"$ref", "$defs", "type", "properties", "items", "enum", "const", "anyOf", "required"}
"""The keywords that all known servers accept. We check the rest when the answer comes."""


@cache
def build_strict_schema(answer: type[BaseModel]) -> dict[str, Any]:
    """Build the schema of a model class once. All properties are required, and no others allowed.

    The caller must not change it.
    """
    schema: dict[str, Any] = _restrict(answer.model_json_schema())
    return schema


@cache
def strict_schema_json(answer: type[BaseModel]) -> str:
    """Return the schema as JSON text."""
    return orjson.dumps(build_strict_schema(answer)).decode()


def _restrict(schema: Any) -> Any:
    """Keep the allowed keywords, in a schema and in the schemas within it."""
    if isinstance(schema, list):
        return [_restrict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _restrict_keyword(name, value) for name, value in schema.items()}
    kept = {name: value for name, value in kept.items() if name in _KEYWORDS}
    if "properties" in kept:
        kept |= {"required": list(kept["properties"]), "additionalProperties": False}
    return kept


def _restrict_keyword(name: str, value: Any) -> Any:
    if name in ("properties", "$defs"):
        return {key: _restrict(part) for key, part in value.items()}
    return _restrict(value) if name in ("items", "anyOf") else value
