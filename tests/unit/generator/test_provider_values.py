"""Values read from providers' answers: requested delays and costs."""

from datetime import UTC, datetime

import pytest

from services.generator.providers.headers import parse_retry_after
from services.generator.providers.prices import Prices

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 25 Nov 2026 12:01:00 GMT"}, 60),
        ({"retry-after": "Wed, 25 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "86400"}, 600),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_parsed_in_all_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers, NOW) == seconds


def test_costs_are_exact() -> None:
    prices = Prices(input_usd=0.15, output_usd=0.60, image_usd=0.003)
    assert prices.usage_of_tokens(1_000_000, 1_000_000).cost_nanousd == 750_000_000
    assert prices.usage_of_tokens(1, 0).cost_nanousd == 150
    assert prices.usage_of_image().cost_nanousd == 3_000_000
