"""Documents that must be true of the code: the configuration, the runbook, and every link, command and variable."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from migrations.files import load
from sandbox import configuration
from sandbox.cli.__main__ import COMMANDS
from services.ingest.openapi import document as openapi
from services.metrics.alerts.definitions import ALERTS
from shared.domain import shopify

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_COMMAND = re.compile(r"\./blogstream ([a-zA-Z-]+)")
_MODULE = re.compile(r"python -m ([a-z_]+(?:\.[a-z_]+)*)")
_VARIABLE = re.compile(r"`([A-Z]+(?:_[A-Z]+)+)`")
KNOWN = {
    one.name for reader in configuration.READERS.values() for one in configuration.list_variables(reader)
} | {
    "HEARTBEAT_FILE",
    "BLOGSTREAM_HOME",
    "TEST_TOKEN",
    "KAFKA_TLS_DIR",
}
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def test_the_configuration_is_what_the_settings_say() -> None:
    committed = configuration.FILE.read_text(encoding="utf-8")
    assert committed == configuration.render_page(), "run python -m sandbox.configuration"


@pytest.mark.parametrize("reader", configuration.READERS)
def test_every_variable_is_described(reader: str) -> None:
    missing = [
        one.name
        for one in configuration.list_variables(configuration.READERS[reader])
        if not one.meaning
    ]
    assert missing == []


@pytest.mark.parametrize("alert", [alert.name for alert in ALERTS])
def test_the_runbook_says_what_to_do_about_every_alert(alert: str) -> None:
    assert re.search(rf"^\| `{alert}`.*\|.*\|.*\|$", RUNBOOK, re.MULTILINE)


@pytest.mark.parametrize("version", [migration.version for migration in load()])
def test_the_runbook_says_what_is_lost_without_every_migration(version: str) -> None:
    assert re.search(rf"^\| (\d{{4}}, )*{version}(, \d{{4}})* \|.*\|$", RUNBOOK, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_variables_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert {name for name in _COMMAND.findall(text) if name != "COMMAND"} <= set(COMMANDS)
    assert [name for name in _MODULE.findall(text) if find_spec(name) is None] == []
    named = set(_VARIABLE.findall(text))
    assert {name for name in named if not name.startswith("OTEL_")} <= KNOWN


def anchors(document: Path) -> set[str]:
    headings = _HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in _LINK.findall(document.read_text(encoding="utf-8")):
        if path.startswith(("http://", "https://")):
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{path} is not there"
        assert not anchor or anchor in anchors(target), f"{path}#{anchor} is no heading"


def test_the_readme_names_the_columns_that_an_export_needs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    required = text.partition("An export needs the columns ")[2].partition(", in any order")[0]
    assert re.findall("`(.+?)`", required) == list(shopify.REQUIRED)


def test_the_readme_says_what_to_do_about_every_status_of_the_interface() -> None:
    paths = openapi.document(version="0")["paths"].values()
    operations = [
        operation for path in paths for operation in path.values() if isinstance(operation, dict)
    ]
    given = {int(status) for operation in operations for status in operation["responses"]}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = (
        text.partition("| status | means | what to do |\n")[2].partition("\n\n")[0].splitlines()[1:]
    )
    told = {
        int(status)
        for row in rows
        for status in re.findall(r"\b[2-5][0-9]{2}\b", row.split("|")[1])
    }
    assert told - {504} == given, "that is a proxy's"
