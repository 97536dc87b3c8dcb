"""Provider accounts for texts, as tests need them."""

from typing import Any

from pydantic import SecretStr

from services.generator.providers.accounts.account import TextAccount
from services.generator.providers.accounts.prices import Prices
from services.generator.quota.provider_limiter import ProviderLimiter

PRICES = Prices(input_usd=0.15, output_usd=0.60, image_usd=0.003)


def make_text_account(**changes: Any) -> TextAccount:
    """Build an account with ample limits."""
    values: dict[str, Any] = {
        "name": "openai",
        "key": SecretStr("sk-x"),
        "model": "gpt-4o-mini",
        "requests": 60_000.0,
        "tokens": 10_000_000.0,
        "prices": PRICES,
        "timeout_s": 5.0,
    }
    return TextAccount(**values | changes)


def make_text_limiter(account: TextAccount) -> ProviderLimiter:
    """Build the limiter of a worker that owns the whole account."""
    limits = {"requests": account.requests, "tokens": account.tokens}
    limiter = ProviderLimiter(provider=account.name, model=account.model, limits=limits, burst_s=2)
    limiter.assign_share((0,), 1, {})
    return limiter
