"""Values read from providers' answers: requested delays and costs."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.generator.providers.accounts.prices import Prices
from services.generator.providers.outcomes.delays import parse_delay

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, None, 7),
        ({"retry-after": "7", "retry-after-ms": "250"}, None, 0.25),
        ({"retry-after": "Wed, 25 Nov 2026 12:01:00 GMT"}, None, 60),
        ({"retry-after": "2026-11-25T12:00:30Z"}, None, 30),
        ({"retry-after": "20s"}, None, 20),
        ({"retry-after": "1m2s"}, None, 62),
        ({"retry-after": "Wed, 25 Nov 2026 11:00:00 GMT"}, None, None),
        ({"retry-after": "inf"}, None, None),
        ({"retry-after": "-1"}, None, None),
        ({"retry-after": "0"}, None, None),
        ({"retry-after": "86400"}, None, 3_600),
        ({"retry-after": "soon"}, None, None),
        ({}, {"detail": "throttled", "status": 429, "retry_after": 9}, 9),
        ({}, {"error": {"message": "x", "metadata": {"retry_after": "3"}}}, 3),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, None, 360),
        ({"x-ratelimit-reset-tokens": "120ms"}, None, 0.12),
        (
            {
                "x-ratelimit-reset-requests": "8m",
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-reset-tokens": "2m59.5s",
                "x-ratelimit-remaining-tokens": "0",
            },
            None,
            179.5,
        ),
        ({"x-ratelimit-reset": "1795608020000"}, None, 20),
        ({"x-ratelimit-reset": "1795608020"}, None, 20),
        ({}, {"error": {"message": "Rate limit reached. Please try again in 20s."}}, 20),
        ({}, {"error": {"message": "Please retry after 32 seconds. Visit us."}}, 32),
        ({}, {"detail": "Your rate limit resets in ~10s."}, 10),
        ({}, {"error": {"message": "Please try again in 7m12s. Limit 200, used 200."}}, 432),
        ({}, {"error": {"message": "no number"}}, None),
        ({}, None, None),
    ],
)
def test_delay_is_parsed_in_all_forms(
    headers: dict[str, str], body: Any, seconds: float | None
) -> None:
    delay = parse_delay(headers, body, NOW, throttled=True)
    assert delay == (None if seconds is None else pytest.approx(seconds))


def test_reset_of_a_limit_delays_throttled_calls_only() -> None:
    headers = {"x-ratelimit-reset-requests": "6m0s"}
    assert parse_delay(headers, None, NOW, throttled=False) is None


def test_costs_are_exact() -> None:
    prices = Prices(input_usd=0.15, output_usd=0.60, image_usd=0.003)
    assert prices.usage_of_tokens(1_000_000, 1_000_000).cost_nanousd == 750_000_000
    assert prices.usage_of_tokens(1, 0).cost_nanousd == 150
    assert prices.usage_of_image().cost_nanousd == 3_000_000
