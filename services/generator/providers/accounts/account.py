"""Describes the provider accounts that a worker may use.

Without `PROVIDERS_FILE` the environment variables describe one account for texts and one for
images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import SecretStr

from services.generator.providers.accounts.prices import Prices, find_image_price, find_text_prices
from services.generator.quota.provider_bucket import ACCOUNT_FLOOR
from services.generator.settings import GeneratorSettings
from shared.domain.errors import Unavailable
from shared.domain.providers_file import ImageAccountEntry, TextAccountEntry

TextApi = Literal["responses", "chat", "auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAccount:
    """An account, or a server, that writes texts with one model. Limits are per minute."""

    name: str
    """Names the account in quotas, reports, metrics and logs."""
    key: SecretStr
    base_url: str | None = None
    api: TextApi = "auto"
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
    floor: float = ACCOUNT_FLOOR
    """The part of each limit (0 to 0.9) that is left for other applications."""
    weight: float = 1.0
    fallback: int = 0
    """Accounts with a higher number are used while no lower one serves."""
    only_on_request: bool = False
    from_file: bool = False
    """Described by `PROVIDERS_FILE`."""

    @property
    def endpoint(self) -> str:
        return self.base_url or "https://api.openai.com/v1"


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
    fallback: int = 0
    from_file: bool = False

    @property
    def endpoint(self) -> str:
        return self.base_url or "https://api.replicate.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAccounts:
    """All accounts of a worker. Without an image account, posts have no images."""

    texts: tuple[TextAccount, ...]
    images: tuple[ImageAccount, ...]
    pinned: Mapping[str, str] = field(default_factory=dict)
    """The name of the text account of each pinned store."""


def accounts_from_settings(settings: GeneratorSettings) -> ProviderAccounts:
    """Describe the accounts of `PROVIDERS_FILE`, or else those of the environment variables.

    The variables describe one account for texts, and at most one for images. Raises `Unavailable`
    if a price is neither set nor known, or if the file is not right.
    """
    if settings.providers_file is not None:
        return _accounts_from_file(settings)
    images = (_image_account(settings),) if settings.images else ()
    return ProviderAccounts(texts=(_text_account(settings),), images=images)


def _accounts_from_file(settings: GeneratorSettings) -> ProviderAccounts:
    assert settings.accounts is not None
    file, keys = settings.accounts, settings.account_keys
    return ProviderAccounts(
        texts=tuple(_text_of_entry(entry, keys[entry.key], settings) for entry in file.text),
        images=tuple(
            _image_of_entry(entry, keys[entry.key], settings)
            for entry in file.image
            if settings.images
        ),
        pinned=file.stores,
    )


def _text_of_entry(
    entry: TextAccountEntry, key: SecretStr, settings: GeneratorSettings
) -> TextAccount:
    return TextAccount(
        name=entry.name,
        key=key,
        base_url=entry.base_url,
        api=entry.api,
        azure_api_version=entry.api_version,
        model=entry.model,
        requests=entry.requests_per_minute,
        tokens=entry.tokens_per_minute,
        prices=_prices_of_text(
            entry.model,
            entry.base_url,
            input_usd=entry.input_price,
            output_usd=entry.output_price,
            names=("input_price", "output_price"),
            owner=f"model {entry.model} of account {entry.name} in PROVIDERS_FILE",
        ),
        timeout_s=entry.timeout_s or settings.openai_timeout_s,
        reasoning_effort=entry.reasoning_effort,
        reasoning_tokens=entry.reasoning_tokens,
        store=entry.store,
        floor=settings.account_floor if entry.floor is None else entry.floor,
        weight=entry.weight,
        fallback=entry.fallback,
        only_on_request=entry.only_on_request,
        from_file=True,
    )


def _image_of_entry(
    entry: ImageAccountEntry, token: SecretStr, settings: GeneratorSettings
) -> ImageAccount:
    return ImageAccount(
        name=entry.name,
        token=token,
        base_url=entry.base_url,
        model=entry.model,
        requests=entry.requests_per_minute,
        reads=entry.reads_per_minute,
        prices=_prices_of_image(
            entry.model,
            entry.price,
            name="price",
            owner=f"model {entry.model} of account {entry.name} in PROVIDERS_FILE",
        ),
        timeout_s=entry.timeout_s or settings.replicate_timeout_s,
        weight=entry.weight,
        fallback=entry.fallback,
        from_file=True,
    )


def _text_account(settings: GeneratorSettings) -> TextAccount:
    assert settings.openai_api_key is not None  # the settings require it without a file
    return TextAccount(
        name="openai",
        key=settings.openai_api_key,
        base_url=settings.openai_base_url,
        api=settings.openai_api,
        azure_api_version=settings.openai_api_version,
        model=settings.openai_model,
        requests=settings.openai_rpm,
        tokens=settings.openai_tpm,
        prices=_prices_of_text(
            settings.openai_model,
            settings.openai_base_url,
            input_usd=settings.openai_input_price,
            output_usd=settings.openai_output_price,
            names=("OPENAI_INPUT_PRICE", "OPENAI_OUTPUT_PRICE"),
            owner=f"OPENAI_MODEL {settings.openai_model}",
        ),
        timeout_s=settings.openai_timeout_s,
        reasoning_effort=settings.openai_reasoning_effort,
        reasoning_tokens=settings.openai_reasoning_tokens,
        store=settings.openai_store,
        floor=settings.account_floor,
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
        prices=_prices_of_image(
            settings.replicate_model,
            settings.replicate_price,
            name="REPLICATE_PRICE",
            owner=f"REPLICATE_MODEL {settings.replicate_model}",
        ),
        timeout_s=settings.replicate_timeout_s,
    )


def _prices_of_text(
    model: str,
    base_url: str | None,
    *,
    input_usd: float | None,
    output_usd: float | None,
    names: tuple[str, str],
    owner: str,
) -> Prices:
    """Return the given prices, else the list prices. `names` and `owner` are for people."""
    listed = find_text_prices(model, base_url)
    given = (input_usd, output_usd)
    known = (listed.input_usd, listed.output_usd) if listed is not None else (None, None)
    prices = [_first(*pair) for pair in zip(given, known, strict=True)]
    _require_prices(dict(zip(names, prices, strict=True)), owner, "for a million tokens")
    return Prices(input_usd=prices[0] or 0.0, output_usd=prices[1] or 0.0, image_usd=0.0)


def _prices_of_image(model: str, price_usd: float | None, *, name: str, owner: str) -> Prices:
    price = _first(price_usd, find_image_price(model))
    _require_prices({name: price}, owner, "for one image")
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
