"""Renders docs/providers.md from the outcome tables.

`python -m services.generator.providers.documentation` writes the page. A test compares it with the
tables.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from services.generator.providers.openai.outcomes import TEXT_OUTCOMES
from services.generator.providers.outcomes.outcome import EFFECTS, OutcomeRow
from services.generator.providers.replicate.outcomes import (
    CREATION_OUTCOMES,
    FILE_OUTCOMES,
    PREDICTION_OUTCOMES,
    READ_OUTCOMES,
)

FILE = Path(__file__).parents[3] / "docs" / "providers.md"

_TABLES: Sequence[tuple[str, str, Sequence[OutcomeRow]]] = (
    (
        "Texts",
        "Calls of the Responses API and of chat completions, at OpenAI, Azure OpenAI, gateways and"
        " local servers. An error inside an answer of status 200 counts as the error.",
        TEXT_OUTCOMES,
    ),
    ("Images: creation of a prediction", "", CREATION_OUTCOMES),
    (
        "Images: read of a prediction",
        "Reads cost nothing. Failed reads are repeated until the prediction's deadline.",
        READ_OUTCOMES,
    ),
    (
        "Images: end of a prediction",
        "Every other status means that the prediction still runs, until its deadline"
        " (`REPLICATE_TIMEOUT_S`). Then it is cancelled, and a later attempt creates another.",
        PREDICTION_OUTCOMES,
    ),
    (
        "Images: file",
        "The first bytes of a file decide about its format, and not its media type.",
        FILE_OUTCOMES,
    ),
)
_INTRODUCTION = """\
# Outcomes of provider calls

For operators and maintainers. Every outcome of a call is classified by the first row that matches,
and its class decides how the job goes on. Only the request's fault, or answers that stay unusable,
fail an accepted job. The terms are in the [glossary](glossary.md). This page is made from the code
by `python -m services.generator.providers.documentation`.

How to describe several accounts, small ones, and other servers: [operations.md](operations.md).

## Classes
"""
_IN_DOUBT = (
    "An outcome in doubt may have been billed: the call is repeated after a pause, and counted in"
    " the job's `inDoubt` calls."
)


def render_page() -> str:
    """Return the whole page."""
    classes = _table(
        ("class", "what follows"), ((kind.value, effect) for kind, effect in EFFECTS.items())
    )
    sections = (_section(*table) for table in _TABLES)
    return f"{_INTRODUCTION}\n{classes}\n{_wrap(_IN_DOUBT)}{''.join(sections)}"


def _section(title: str, text: str, rows: Iterable[OutcomeRow]) -> str:
    table = _table(
        ("outcome", "class", "error code", "in doubt"),
        (
            (row.name, row.kind.value, f"`{row.code}`" if row.code else "", "yes" * row.in_doubt)
            for row in rows
        ),
    )
    paragraph = f"\n{_wrap(text)}\n" if text else "\n"
    return f"\n## {title}\n{paragraph}{table}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _wrap(text: str) -> str:
    """Break a paragraph into lines of at most 100 columns."""
    return textwrap.fill(text, 100) + "\n"


if __name__ == "__main__":
    FILE.write_text(render_page(), encoding="utf-8")
    print(FILE)
