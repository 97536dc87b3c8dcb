"""Checks a JSON schema against the subset that OpenAI accepts with `strict: true`. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_LEVELS = 10
MAX_PROPERTIES = 5_000
MAX_ENUM_VALUES = 1_000
MAX_CHARACTERS = 120_000
"""Together, of the names of properties and definitions, and of enum and const values."""

_ANYWHERE = {"type", "title", "description", "enum", "const", "anyOf", "$ref", "$defs"}
_NUMERIC = {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}
_OF_TYPE = {
    "string": {"pattern", "format"},
    "number": _NUMERIC,
    "integer": _NUMERIC,
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set[str](),
    "null": set[str](),
}
_AT_ROOT = {"$schema", "definitions"}
_ARRAY_BOUNDS = {"minItems", "maxItems"}
_FORMATS = {
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
}
_COMPOSITION = ("anyOf", "oneOf", "allOf", "enum", "not")

Context = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    context: Context
    schema: dict[str, Any]


class SchemaError(Exception):
    """A schema outside the subset, in OpenAI's words."""


def check_strict_schema(schema: dict[str, Any], *, refuse_array_bounds: bool = False) -> None:
    """Raise `SchemaError` for the first breach. Some servers refuse `minItems` and `maxItems`."""
    check_root(schema)
    found = next((key for key in _COMPOSITION if key in schema), None)
    if found is not None:
        raise SchemaError(
            "schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at"
            " the top level."
        )
    for node in _walk((), schema):
        _check_node(node, schema, refuse_array_bounds=refuse_array_bounds)
    _check_size(schema)


def check_root(schema: dict[str, Any]) -> None:
    """Raise `SchemaError` unless the root is an object: also required without `strict`."""
    kind = schema.get("type")
    if kind != "object":
        shown = "None" if kind is None else kind
        raise SchemaError(
            f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{shown}\"'."
        )


def _walk(context: Context, schema: Any) -> Iterator[_Node]:
    if not isinstance(schema, dict):
        raise SchemaError(f"In context={context!r}, {schema!r} is not a valid schema.")
    yield _Node(context, schema)
    for key, child in _children(schema):
        yield from _walk((*context, *key), child)


def _children(schema: dict[str, Any]) -> Iterator[tuple[Context, Any]]:
    for keyword in ("properties", "$defs", "definitions"):
        group = schema.get(keyword)
        for name, child in group.items() if isinstance(group, dict) else ():
            yield (keyword, name), child
    if "items" in schema:
        yield ("items",), schema["items"]
    options = schema.get("anyOf")
    for number, child in enumerate(options if isinstance(options, list) else ()):
        yield ("anyOf", str(number)), child


def _check_node(node: _Node, root: dict[str, Any], *, refuse_array_bounds: bool) -> None:
    schema, where = node.schema, f"In context={node.context!r}"
    if "$ref" in schema:
        _check_reference(node, root)
        return
    types = _types(schema)
    allowed = _ANYWHERE.union(*(_OF_TYPE.get(kind, set()) for kind in types))
    allowed |= set() if node.context else _AT_ROOT
    allowed -= _ARRAY_BOUNDS if refuse_array_bounds else set()
    for keyword in schema:
        if keyword not in allowed:
            raise SchemaError(f"{where}, '{keyword}' is not permitted.")
    if not types and not {"anyOf", "enum", "const"} & schema.keys():
        raise SchemaError(f"{where}, schema must have a 'type' key.")
    for kind in types:
        if kind not in _OF_TYPE:
            raise SchemaError(f"{where}, '{kind}' is not valid under any of the given schemas.")
    if "format" in schema and schema["format"] not in _FORMATS:
        raise SchemaError(f"{where}, '{schema['format']}' is not a valid format.")
    if "array" in types and "items" not in schema:
        raise SchemaError(f"{where}, array schema missing items.")
    if "object" in types:
        _check_object(schema, where)


def _check_object(schema: dict[str, Any], where: str) -> None:
    if schema.get("additionalProperties") is not False:
        raise SchemaError(
            f"{where}, 'additionalProperties' is required to be supplied and to be false."
        )
    properties, required = schema.get("properties", {}), schema.get("required", [])
    for name in properties:
        if name not in required:
            raise SchemaError(
                f"{where}, 'required' is required to be supplied and to be an array including every"
                f" key in properties. Missing '{name}'."
            )
    for name in required:
        if name not in properties:
            raise SchemaError(f"{where}, 'required' has an extra key '{name}'.")


def _check_reference(node: _Node, root: dict[str, Any]) -> None:
    siblings = node.schema.keys() - {"$ref", "$defs"}
    if siblings:
        words = "{" + ", ".join(repr(name) for name in sorted(siblings)) + "}"
        raise SchemaError(f"context={node.context!r}, $ref cannot have keywords {words}.")
    if _resolve(node.schema, root) is None:
        raise SchemaError(
            f"In context={node.context!r}, reference can only point to definitions defined at the"
            " top level of the schema."
        )


def _types(schema: dict[str, Any]) -> list[str]:
    kind = schema.get("type")
    return kind if isinstance(kind, list) else [] if kind is None else [str(kind)]


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any] | None:
    reference = str(schema["$ref"])
    if reference == "#":
        return root
    for keyword in ("$defs", "definitions"):
        prefix = f"#/{keyword}/"
        if reference.startswith(prefix):
            found = root.get(keyword, {}).get(reference.removeprefix(prefix))
            return found if isinstance(found, dict) else None
    return None


def _check_size(root: dict[str, Any]) -> None:
    nodes = list(_walk((), root))
    properties = sum(len(node.schema.get("properties", {})) for node in nodes)
    enums = sum(len(node.schema.get("enum", [])) for node in nodes)
    for found, limit, unit in (
        (_levels(root, root, ()), MAX_LEVELS, "levels of nesting"),
        (properties, MAX_PROPERTIES, "parameters"),
        (enums, MAX_ENUM_VALUES, "enum values"),
        (sum(map(_characters, nodes)), MAX_CHARACTERS, "characters"),
    ):
        if found > limit:
            raise SchemaError(f"{found} {unit} exceeds limit of {limit}.")


def _levels(schema: dict[str, Any], root: dict[str, Any], open_references: Context) -> int:
    """Return the levels below a schema to its deepest object or array, or -1 for neither.

    A reference to a schema around it counts once: recursion is permitted.
    """
    if "$ref" in schema:
        reference = str(schema["$ref"])
        target = _resolve(schema, root)
        if reference == "#" or reference in open_references or target is None:
            return -1
        return _levels(target, root, (*open_references, reference))
    parts = [*schema.get("properties", {}).values()]
    parts += [schema["items"]] if "items" in schema else []
    below = [_levels(part, root, open_references) + 1 for part in parts]
    beside = [_levels(part, root, open_references) for part in schema.get("anyOf", [])]
    is_container = bool({"object", "array"} & set(_types(schema)))
    return max([0 if is_container else -1, *(level for level in below if level > 0), *beside])


def _characters(node: _Node) -> int:
    names = [*node.schema.get("properties", {}), *node.schema.get("$defs", {})]
    values = [*node.schema.get("enum", []), node.schema.get("const", "")]
    return sum(len(text) for text in (*names, *values) if isinstance(text, str))
