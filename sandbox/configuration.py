"""`python -m sandbox.configuration`: generates docs/configuration.md from the settings classes.

A test fails when the page is outdated.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from migrations.settings import MigrationSettings
from sandbox.providers.settings import StandinSettings
from services.generator.settings import GeneratorSettings
from services.ingest.settings import IngestSettings
from services.metrics.settings import MetricsSettings
from services.scheduler.settings import SchedulerSettings
from shared.runtime.settings import Settings

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"
SERVICES: Mapping[str, type[Settings]] = {
    "ingest": IngestSettings,
    "scheduler": SchedulerSettings,
    "generator": GeneratorSettings,
    "metrics": MetricsSettings,
}
READERS: Mapping[str, type[Settings]] = {
    **SERVICES,
    "migrations": MigrationSettings,
    "stand-ins (sandbox)": StandinSettings,
}

_HEAD = """# Configuration

Each process reads its environment once, at its start. An empty variable counts as unset. An invalid
value ends the process with exit code 3 and one line that names the variable. A variable with
different defaults or meanings is listed under each process. This page is generated from the
settings classes by `python -m sandbox.configuration`.
"""
_OTHER_VARIABLES = (
    (
        "`HEARTBEAT_FILE`",
        "unset",
        "the file that a process touches every two seconds, for `python -m shared.health`",
    ),
    (
        "`OTEL_EXPORTER_OTLP_ENDPOINT`, other `OTEL_*`",
        "unset",
        "the collector of spans, as OpenTelemetry's SDK defines it",
    ),
    (
        "`BLOGSTREAM_HOME`",
        "`.blogstream`",
        "the home of `./blogstream`: the folder that holds everything a local run leaves",
    ),
    (
        "`BLOGSTREAM_INSTALL_BROWSER`",
        "unset",
        "`1` lets `./blogstream test` install Chromium with apt-get, as root",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    name: str
    kind: str
    default: str
    meaning: str


def list_variables(settings: type[Settings]) -> Iterator[Variable]:
    """Yield the variables of a settings class in declaration order, inherited ones first."""
    schema = settings.model_json_schema()["properties"]
    for name, field in settings.model_fields.items():
        yield Variable(
            name=name.upper(),
            kind=_kind(schema[name]),
            default=_default(field),
            meaning=field.description or "",
        )


def render_page() -> str:
    """Return the text of docs/configuration.md."""
    readers: dict[Variable, list[str]] = {}
    for reader, settings in READERS.items():
        for variable in list_variables(settings):
            readers.setdefault(variable, []).append(reader)
    by_readers = sorted(
        readers.items(), key=lambda item: (-len(item[1]), list(READERS).index(item[1][0]))
    )
    sections = [
        _section(names, [variable for variable, _ in group])
        for names, group in groupby(by_readers, lambda x: x[1])
    ]
    return _HEAD + "".join(sections) + _other_section()


def _section(readers: list[str], found: list[Variable]) -> str:
    title = "Every process" if len(readers) == len(READERS) else ", ".join(readers)
    rows = (f"| `{one.name}` | {one.kind} | {one.default} | {one.meaning} |\n" for one in found)
    header = "| variable | type | default | meaning, unit |\n|---|---|---|---|\n"
    return f"\n## {title}\n\n{header}{''.join(rows)}"


def _other_section() -> str:
    rows = (f"| {' | '.join(row)} |\n" for row in _OTHER_VARIABLES)
    header = "| variable | default | meaning |\n|---|---|---|\n"
    return f"\n## Read by libraries and by ./blogstream\n\n{header}{''.join(rows)}"


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type in words, with its bounds."""
    (shape,) = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    words = {
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "string": "text",
    }
    formats = {"password": "secret", "path": "path"}
    word = formats.get(shape.get("format", ""), words[shape["type"]])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    return " ".join(
        [word, *(f"{sign} {shape[bound]:g}" for bound, sign in bounds.items() if bound in shape)]
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default in (None, ""):
        return "unset"
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    FILE.write_text(render_page(), encoding="utf-8")
    print(FILE)
