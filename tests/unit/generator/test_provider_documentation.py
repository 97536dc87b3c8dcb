"""docs/providers.md shows the outcome tables as they are."""

from services.generator.providers.documentation import FILE, render_page


def test_page_is_made_from_the_tables() -> None:
    assert FILE.read_text(encoding="utf-8") == render_page(), (
        "write it with python -m services.generator.providers.documentation"
    )
