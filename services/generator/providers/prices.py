"""Computes the cost of calls in whole billionths of a US dollar, so that sums are exact."""

from dataclasses import dataclass

from shared.domain.messages import Usage


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
