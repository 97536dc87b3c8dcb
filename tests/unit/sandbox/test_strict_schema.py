"""The stand-in's check of strict JSON schemas, against the documented subset."""

from typing import Any

import pytest

from sandbox.providers.openai.schema import SchemaError, check_root, check_strict_schema


def build_object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def nest_objects(levels: int) -> dict[str, Any]:
    """Build a schema whose deepest object is `levels` levels below its root."""
    schema = build_object(end={"type": "string"})
    for _ in range(levels):
        schema = build_object(next=schema)
    return schema


TEXT = {"type": "string"}

PERMITTED: list[dict[str, Any]] = [
    {"type": "string", "pattern": "^a", "title": "Title", "description": "d"},
    {"type": "string", "format": "date-time"},
    {"type": "number", "multipleOf": 2, "maximum": 9, "minimum": 1},
    {"type": "integer", "exclusiveMaximum": 9, "exclusiveMinimum": 1},
    {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3},
    {"type": ["string", "null"]},
    {"anyOf": [TEXT, {"type": "null"}]},
    {"enum": ["a", "b"]},
    {"type": "string", "const": "a"},
    build_object(inner=TEXT),
]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "string", "minLength": 1}, "'minLength' is not permitted."),
    ({"type": "string", "maxLength": 9}, "'maxLength' is not permitted."),
    ({"type": "string", "default": "x"}, "'default' is not permitted."),
    ({"type": "string", "examples": ["x"]}, "'examples' is not permitted."),
    ({"type": "string", "format": "uri"}, "'uri' is not a valid format."),
    ({"type": "integer", "pattern": "1"}, "'pattern' is not permitted."),
    ({"type": "array", "items": TEXT, "uniqueItems": True}, "'uniqueItems' is not permitted."),
    ({"type": "array"}, "array schema missing items."),
    ({"oneOf": [TEXT]}, "'oneOf' is not permitted."),
    ({"allOf": [TEXT]}, "'allOf' is not permitted."),
    ({"not": TEXT}, "'not' is not permitted."),
    ({"type": "string", "if": {}}, "'if' is not permitted."),
    ({"description": "anything"}, "schema must have a 'type' key."),
    ({"type": "object", "patternProperties": {}}, "'patternProperties' is not permitted."),
    (
        {"type": "object", "properties": {}, "required": []},
        "'additionalProperties' is required to be supplied and to be false.",
    ),
    (
        {**build_object(a=TEXT), "additionalProperties": True},
        "'additionalProperties' is required to be supplied and to be false.",
    ),
    (
        {**build_object(a=TEXT), "required": []},
        "'required' is required to be supplied and to be an array including every key in"
        " properties. Missing 'a'.",
    ),
]


@pytest.mark.parametrize("schema", PERMITTED, ids=str)
def test_schema_within_the_subset_is_permitted(schema: dict[str, Any]) -> None:
    check_strict_schema(build_object(field=schema))


@pytest.mark.parametrize(("schema", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_schema_outside_the_subset_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError) as refused:
        check_strict_schema(build_object(field=schema))
    assert str(refused.value) == f"In context=('properties', 'field'), {message}"


def test_context_names_items_and_definitions() -> None:
    item = build_object(heading={"type": "string", "minLength": 1})
    with pytest.raises(SchemaError) as of_items:
        check_strict_schema(build_object(parts={"type": "array", "items": item}))
    assert "('properties', 'parts', 'items', 'properties', 'heading')" in str(of_items.value)
    referring = build_object(part={"$ref": "#/$defs/Part"}) | {"$defs": {"Part": item}}
    with pytest.raises(SchemaError) as of_definitions:
        check_strict_schema(referring)
    assert "('$defs', 'Part', 'properties', 'heading')" in str(of_definitions.value)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "array", "items": TEXT}, "got 'type: \"array\"'"),
        ({"anyOf": [build_object(a=TEXT)]}, "got 'type: \"None\"'"),
        (build_object(a=TEXT) | {"anyOf": [build_object()]}, "at the top level"),
    ],
)
def test_root_is_an_object_without_anyof(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        check_strict_schema(schema)


def test_root_is_checked_without_strict_too() -> None:
    check_root({"type": "object"})
    with pytest.raises(SchemaError, match="must be a JSON Schema of 'type"):
        check_root({"type": "string"})


def test_reference_has_no_siblings_and_a_target() -> None:
    definitions = {"$defs": {"Part": build_object(a=TEXT)}}
    with pytest.raises(SchemaError, match=r"\$ref cannot have keywords \{'description'\}"):
        check_strict_schema(
            build_object(a={"$ref": "#/$defs/Part", "description": "d"}) | definitions
        )
    with pytest.raises(SchemaError, match="reference can only point to definitions"):
        check_strict_schema(build_object(a={"$ref": "#/$defs/Other"}) | definitions)


def test_nesting_is_limited_to_ten_levels() -> None:
    check_strict_schema(nest_objects(10))
    with pytest.raises(SchemaError, match="11 levels of nesting exceeds limit of 10"):
        check_strict_schema(nest_objects(11))


def test_recursive_schema_is_permitted() -> None:
    node = build_object(children={"type": "array", "items": {"$ref": "#/$defs/Node"}})
    check_strict_schema(build_object(root={"$ref": "#/$defs/Node"}) | {"$defs": {"Node": node}})
    check_strict_schema(build_object(children={"type": "array", "items": {"$ref": "#"}}))


def test_numbers_of_properties_and_values_are_limited() -> None:
    check_strict_schema(build_object(**{f"p{number}": TEXT for number in range(5_000)}))
    with pytest.raises(SchemaError, match="5001 parameters exceeds limit of 5000"):
        check_strict_schema(build_object(**{f"p{number}": TEXT for number in range(5_001)}))
    with pytest.raises(SchemaError, match="1001 enum values exceeds limit of 1000"):
        check_strict_schema(build_object(a={"enum": [str(number) for number in range(1_001)]}))


def test_array_bounds_are_refused_where_the_server_does() -> None:
    schema = build_object(a={"type": "array", "items": TEXT, "minItems": 1})
    check_strict_schema(schema)
    with pytest.raises(SchemaError, match="'minItems' is not permitted"):
        check_strict_schema(schema, refuse_array_bounds=True)
