"""Finds the prices of models and computes the cost of calls.

Costs are whole billionths of a US dollar, so that sums are exact. The prices of texts come from the
table in the package genai-prices, as installed: nothing is downloaded.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import genai_prices

from shared.domain.messages import Usage

_SAMPLE_TOKENS = 1_000
"""A call of this size has the price of the lowest tier, as every call of a post has."""
_AT = datetime(2099, 1, 1, 12, tzinfo=UTC)
"""The newest prices, at an hour without a discount: some vendors are cheaper at night."""
_IMAGE_USD = {"black-forest-labs/flux-schnell": 0.003}
"""The table has no prices of images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars for a million input tokens, a million output tokens, and one image."""

    input_usd: float
    output_usd: float
    image_usd: float

    def usage_of_tokens(
        self, input_tokens: int, output_tokens: int, *, reasoning_tokens: int = 0
    ) -> Usage:
        """Compute the usage of a text. The reasoning tokens are part of the output tokens."""
        # One dollar for a million tokens is a thousand billionths of a dollar for one token.
        cost = round(
            input_tokens * self.input_usd * 1_000 + output_tokens * self.output_usd * 1_000
        )
        return Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            reasoning_tokens=reasoning_tokens,
            cost_nanousd=cost,
        )

    def usage_of_image(self) -> Usage:
        return Usage(images=1, cost_nanousd=round(self.image_usd * 1e9))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrices:
    """US dollars for a million input tokens, and for a million output tokens."""

    input_usd: float
    output_usd: float


def find_text_prices(model: str, base_url: str | None) -> TextPrices | None:
    """Return the list prices of a model, or `None` if the table does not know it.

    The address selects the vendor. A model behind an unknown address has OpenAI's price; a name
    such as `anthropic/claude-sonnet-4-5` names its vendor itself.
    """
    if base_url is not None and (found := _look_up(model, api_url=base_url)) is not None:
        return found
    return _look_up(model, vendor="litellm" if "/" in model else "openai")


def find_image_price(model: str) -> float | None:
    """Return the price of one image in US dollars, or `None` if it is not known."""
    return _IMAGE_USD.get(model)


def _look_up(model: str, *, vendor: str = "", api_url: str = "") -> TextPrices | None:
    """Look a model up at a vendor or, if an address is given, at the vendor of that address."""
    sample = genai_prices.Usage(input_tokens=_SAMPLE_TOKENS, output_tokens=_SAMPLE_TOKENS)
    try:
        if api_url:
            found = genai_prices.calc_price(
                sample, model, provider_api_url=api_url, genai_request_timestamp=_AT
            )
        else:
            found = genai_prices.calc_price(
                sample, model, provider_id=vendor, genai_request_timestamp=_AT
            )
    except LookupError:
        return None
    if found.model_price.input_mtok is None or found.model_price.output_mtok is None:
        return None  # a model that writes no texts
    scale = 1_000_000 / _SAMPLE_TOKENS
    return TextPrices(
        input_usd=float(found.input_price) * scale, output_usd=float(found.output_price) * scale
    )
