"""Documents that must be true of the code: the configuration, the runbook, and every link between them."""

import re
from pathlib import Path

import pytest

from sandbox import configuration
from services.metrics.rules.alerts import ALERTS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def test_the_configuration_is_what_the_settings_say() -> None:
    committed = configuration.FILE.read_text(encoding="utf-8")
    assert committed == configuration.text(), "run python -m sandbox.configuration"


@pytest.mark.parametrize("reader", configuration.READERS)
def test_every_variable_is_described(reader: str) -> None:
    missing = [one.name for one in configuration.variables(configuration.READERS[reader]) if not one.meaning]
    assert missing == []


@pytest.mark.parametrize("alert", [alert.name for alert in ALERTS])
def test_the_runbook_says_what_to_do_about_every_alert(alert: str) -> None:
    assert re.search(rf"^\| `{alert}`.*\|.*\|.*\|$", RUNBOOK, re.MULTILINE)


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
