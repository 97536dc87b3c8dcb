"""Checks the pages against the code, their links, and the style of their prose."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from migrations.files import load_migrations
from sandbox import configuration
from sandbox.cli.__main__ import COMMANDS
from services.ingest.openapi import document as openapi
from services.metrics.alerts.definitions import ALERTS
from shared.domain import shopify
from tests.support import markdown

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
API = ROOT / "docs" / "api.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "clients").rglob("*.md")),
]
GENERATED = {configuration.FILE}
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
KNOWN_VARIABLES = {
    one.name
    for reader in configuration.READERS.values()
    for one in configuration.list_variables(reader)
} | {
    "HEARTBEAT_FILE",
    "BLOGSTREAM_HOME",
    "TEST_TOKEN",
    "KAFKA_TLS_DIR",
    "TARGET_DATABASE_URL",
    "BLOGSTREAM_INSTALL_BROWSER",
}
_COMMAND = re.compile(r"\./blogstream ([a-zA-Z][a-zA-Z-]*)")
_MODULE = re.compile(r"python -m ([a-z_]+(?:\.[a-z_]+)*)")
_KIND = re.compile(r"(whole number|number|true or false|text|secret|path)( [≥>≤] \S+)*")
_VARIABLE = re.compile(r"`([A-Z]+(?:_[A-Z]+)+)`")


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def api_operations() -> dict[str, dict[str, Any]]:
    """Return the operations of every path of the interface, by method."""
    paths: dict[str, dict[str, Any]] = openapi.build_document(version="0")["paths"]
    return {
        path: {method: found for method, found in operations.items() if isinstance(found, dict)}
        for path, operations in paths.items()
    }


def test_configuration_page_matches_settings() -> None:
    committed = configuration.FILE.read_text(encoding="utf-8")
    assert committed == configuration.render_page(), "run python -m sandbox.configuration"


@pytest.mark.parametrize("reader", configuration.READERS)
def test_every_variable_has_a_known_type(reader: str) -> None:
    kinds = {one.kind for one in configuration.list_variables(configuration.READERS[reader])}
    assert [kind for kind in kinds if not _KIND.fullmatch(kind)] == []


@pytest.mark.parametrize("reader", configuration.READERS)
def test_every_variable_has_a_description(reader: str) -> None:
    missing = [
        one.name
        for one in configuration.list_variables(configuration.READERS[reader])
        if not one.meaning
    ]
    assert missing == []


@pytest.mark.parametrize("alert", [alert.name for alert in ALERTS])
def test_runbook_has_an_action_for_every_alert(alert: str) -> None:
    assert re.search(rf"^\| `{alert}`.*\|.*\|.*\|$", RUNBOOK, re.MULTILINE)


@pytest.mark.parametrize("version", [migration.version for migration in load_migrations()])
def test_runbook_lists_the_loss_below_every_migration(version: str) -> None:
    assert re.search(rf"^\| (\d{{4}}, )*{version}(, \d{{4}})* \|.*\|$", RUNBOOK, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_documented_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(_COMMAND.findall(text)) <= set(COMMANDS)
    assert [name for name in _MODULE.findall(text) if find_spec(name) is None] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != CONTRIBUTING], ids=page_name)
def test_documented_variables_exist(page: Path) -> None:
    named = set(_VARIABLE.findall(page.read_text(encoding="utf-8")))
    assert {name for name in named if not name.startswith("OTEL_")} <= KNOWN_VARIABLES


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in markdown.links(page):
        if path.startswith(("http://", "https://")):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path} does not exist"
        assert not anchor or anchor in markdown.anchors(target), f"{path}#{anchor} is no heading"


def test_contributing_names_existing_files() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|json|md|in|txt|yaml|yml|toml))`", text)
    missing = [path for path in named if "NAME" not in path and not (ROOT / path).exists()]
    assert len(named) > 20
    assert missing == []


def test_api_page_names_the_columns_of_an_export() -> None:
    (required, _) = markdown.table_rows(API, "| columns | names |")
    assert re.findall("`(.+?)`", required[1]) == list(shopify.REQUIRED_COLUMNS)


def test_api_page_has_an_action_for_every_status() -> None:
    documented = {
        int(status)
        for row in markdown.table_rows(API, "| status | meaning | action |")
        for status in re.findall(r"\b[2-5][0-9]{2}\b", row[0])
    }
    given = {
        int(status)
        for operations in api_operations().values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    assert documented - {504} == given, "504 comes from proxies only"


@pytest.mark.parametrize("path", api_operations())
def test_api_page_describes_every_call(path: str) -> None:
    placeholders = {"{id}": "ID", "{store}": "STORE", "{delivery}": "DELIVERY"}
    for parameter, placeholder in placeholders.items():
        path = path.replace(parameter, placeholder)
    text = API.read_text(encoding="utf-8")
    assert re.search(rf"{re.escape(path)}(?![\w/-])", text)


def test_api_page_describes_every_field_of_a_request() -> None:
    submit = api_operations()["/api/blog-generation"]["post"]
    reference = submit["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = openapi.build_document(version="0")["components"]["schemas"][
        reference.rpartition("/")[2]
    ]
    rows = markdown.table_rows(API, "| field | meaning |")
    documented = {field for row in rows for field in re.findall("`(.+?)`", row[0])}
    assert documented - {"Idempotency-Key"} == set(schema["properties"])


def test_readme_fits_on_three_screens() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1_040


def test_architecture_fits_on_one_screen() -> None:
    assert len(ARCHITECTURE.read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("picture", [*(ROOT / "docs" / "images").iterdir()], ids=page_name)
def test_pictures_are_small(picture: Path) -> None:
    assert picture.stat().st_size < 200_000


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_prose_lines_are_at_most_120_columns_wide(page: Path) -> None:
    text = markdown.without_code_blocks(page.read_text(encoding="utf-8"))
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert [line for line in prose if len(line) > 120] == []


@pytest.mark.parametrize("page", [README, ARCHITECTURE], ids=page_name)
def test_prose_uses_nouns_rather_than_pronouns(page: Path) -> None:
    assert markdown.pronouns_per_hundred_words(page) <= 3
