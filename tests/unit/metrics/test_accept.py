"""Content negotiation by the `Accept` header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metrics.http.accept import choose_media_type

OFFERED = {
    "json": "application/json",
    "openmetrics": "application/openmetrics-text",
    "prometheus": "text/plain",
}
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("text/html", "json"),
        ("application/json, text/plain, */*", "json"),  # the default of axios
        ("text/plain, */*", "prometheus"),
        ("Text/Plain ; version=0.0.4", "prometheus"),
        ("text/*", "prometheus"),
        ("application/json;q=0.1, text/plain", "prometheus"),
        ("application/json, text/plain;q=0.9", "json"),
        ("text/plain;q=0, application/json", "json"),
        ("*/*, application/json;q=0", "openmetrics"),
        (PROMETHEUS_2, "openmetrics"),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", "prometheus"),
        ("text/plain;q=nan, application/json;q=0.1", "json"),
        ("text/plain;q=much, application/json;q=0.1", "json"),
    ],
)
def test_highest_weight_wins(header: str, name: str) -> None:
    assert choose_media_type(header, OFFERED) == name


@given(st.text(alphabet="aplictonjsxe/*;,=q01. -", max_size=60))
def test_any_header_gets_an_offered_type(header: str) -> None:
    assert choose_media_type(header, OFFERED) in OFFERED
