"""Describes the provider accounts that a worker may use.

Without `PROVIDERS_FILE` the environment variables describe one account for texts and one for
images.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from services.generator.providers.prices import Prices
from services.generator.settings import GeneratorSettings

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
    """Describe the accounts of the environment variables: one for texts, one for images."""
    prices = Prices(
        input_usd=settings.openai_input_price,
        output_usd=settings.openai_output_price,
        image_usd=settings.replicate_price,
    )
    text = TextAccount(
        name="openai",
        key=settings.openai_api_key,
        base_url=settings.openai_base_url,
        api=settings.openai_api,
        azure_api_version=settings.openai_api_version,
        model=settings.openai_model,
        requests=settings.openai_rpm,
        tokens=settings.openai_tpm,
        prices=prices,
        timeout_s=settings.openai_timeout_s,
        reasoning_effort=settings.openai_reasoning_effort,
        reasoning_tokens=settings.openai_reasoning_tokens,
        store=settings.openai_store,
    )
    image = ImageAccount(
        name="replicate",
        token=settings.replicate_api_token,
        base_url=settings.replicate_base_url,
        model=settings.replicate_model,
        requests=settings.replicate_rpm,
        reads=settings.replicate_read_rpm,
        prices=prices,
        timeout_s=settings.replicate_timeout_s,
    )
    return ProviderAccounts(texts=(text,), images=(image,))
