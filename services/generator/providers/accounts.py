"""Describes the provider accounts that a worker may use.

Without `PROVIDERS_FILE` the environment variables describe one account for texts and one for
images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from services.generator.providers.prices import Prices, find_image_price, find_text_prices
from services.generator.settings import GeneratorSettings
from shared.domain.errors import Unavailable

TextApi = Literal["responses", "chat", "auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAccount:
    """An account, or a server, that writes texts with one model. Limits are per minute."""

    name: str
    """Names the account in quotas, reports, metrics and logs."""
    key: SecretStr
    base_url: str | None = None
    api: TextApi = "responses"
    azure_api_version: str | None = None
    """Set for Azure OpenAI, whose clients name the version of its API."""
    model: str
    requests: float
    tokens: float
    prices: Prices
    timeout_s: float
    """The total time of one call: connection, headers and body."""
    reasoning_effort: str | None = None
    """`None`: the least that the model has."""
    reasoning_tokens: int | None = None
    """Room for reasoning in each call; `None`: by model and effort."""
    store: bool = False
    """Whether the vendor may keep the answers."""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAccount:
    """An account that creates images with one model. Limits are per minute."""

    name: str
    token: SecretStr
    base_url: str | None = None
    model: str
    requests: float
    reads: float
    prices: Prices
    timeout_s: float
    """The total time of one prediction, from its creation."""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAccounts:
    """All accounts of a worker. Without an image account, posts have no images."""

    texts: tuple[TextAccount, ...]
    images: tuple[ImageAccount, ...]


DEFAULT_ENDPOINTS = {
    TextAccount: "https://api.openai.com/v1",
    ImageAccount: "https://api.replicate.com",
}
"""The addresses that the vendors' SDKs use without a base URL."""


def accounts_from_settings(settings: GeneratorSettings) -> ProviderAccounts:
    """Describe the accounts of the environment variables: one for texts, at most one for images.

    Raises `Unavailable` if a price is neither set nor known.
    """
    images = (_image_account(settings),) if settings.images else ()
    return ProviderAccounts(texts=(_text_account(settings),), images=images)


def _text_account(settings: GeneratorSettings) -> TextAccount:
    return TextAccount(
        name="openai",
        key=settings.openai_api_key,
        base_url=settings.openai_base_url,
        api=settings.openai_api,
        azure_api_version=settings.openai_api_version,
        model=settings.openai_model,
        requests=settings.openai_rpm,
        tokens=settings.openai_tpm,
        prices=_text_prices(settings),
        timeout_s=settings.openai_timeout_s,
        reasoning_effort=settings.openai_reasoning_effort,
        reasoning_tokens=settings.openai_reasoning_tokens,
        store=settings.openai_store,
    )


def _image_account(settings: GeneratorSettings) -> ImageAccount:
    assert settings.replicate_api_token is not None  # the settings require it
    return ImageAccount(
        name="replicate",
        token=settings.replicate_api_token,
        base_url=settings.replicate_base_url,
        model=settings.replicate_model,
        requests=settings.replicate_rpm,
        reads=settings.replicate_read_rpm,
        prices=_image_prices(settings),
        timeout_s=settings.replicate_timeout_s,
    )


def _text_prices(settings: GeneratorSettings) -> Prices:
    listed = find_text_prices(settings.openai_model, settings.openai_base_url)
    prices = {
        "OPENAI_INPUT_PRICE": _first(
            settings.openai_input_price, listed.input_usd if listed is not None else None
        ),
        "OPENAI_OUTPUT_PRICE": _first(
            settings.openai_output_price, listed.output_usd if listed is not None else None
        ),
    }
    _require_prices(prices, f"OPENAI_MODEL {settings.openai_model}", "for a million tokens")
    return Prices(
        input_usd=prices["OPENAI_INPUT_PRICE"] or 0.0,
        output_usd=prices["OPENAI_OUTPUT_PRICE"] or 0.0,
        image_usd=0.0,
    )


def _image_prices(settings: GeneratorSettings) -> Prices:
    price = _first(settings.replicate_price, find_image_price(settings.replicate_model))
    _require_prices(
        {"REPLICATE_PRICE": price}, f"REPLICATE_MODEL {settings.replicate_model}", "for one image"
    )
    return Prices(input_usd=0.0, output_usd=0.0, image_usd=price or 0.0)


def _first(*prices: float | None) -> float | None:
    """Return the first price that is known. Zero is a price."""
    return next((price for price in prices if price is not None), None)


def _require_prices(prices: Mapping[str, float | None], model: str, unit: str) -> None:
    missing = [name for name, price in prices.items() if price is None]
    if missing:
        raise Unavailable(
            f"the price of {model} is not known: set {' and '.join(missing)} (US dollars {unit};"
            " 0 for a model that costs nothing)"
        )
