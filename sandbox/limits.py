"""The rate limits that a command reads, from its environment or from a home's variables."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import Field, SecretStr

from sandbox.capacity import ProviderLimits
from services.generator.blog.prompts import largest_call_tokens
from services.generator.providers.accounts.account import TextAccount
from services.generator.providers.accounts.prices import Prices
from services.generator.settings import GeneratorSettings
from shared.runtime.settings import ProcessingSettings, TopicSettings

_NAMES = (
    "openai_rpm",
    "openai_tpm",
    "replicate_rpm",
    "replicate_read_rpm",
    "openai_model",
    "openai_reasoning_effort",
    "openai_reasoning_tokens",
)


def _default(name: str) -> Any:
    return GeneratorSettings.model_fields[name].default


def _limit(name: str) -> Any:
    return Field(_default(name), gt=0)


class LimitSettings(ProcessingSettings, TopicSettings):
    """The generator's rate limits, without its required settings."""

    openai_rpm: float = _limit("openai_rpm")
    openai_tpm: float = _limit("openai_tpm")
    replicate_rpm: float = _limit("replicate_rpm")
    replicate_read_rpm: float = _limit("replicate_read_rpm")

    account_floor: float = Field(_default("account_floor"), ge=0, le=0.9)

    openai_model: str = _default("openai_model")
    openai_reasoning_effort: str | None = None
    openai_reasoning_tokens: int | None = None

    def text_account(self) -> TextAccount:
        """Describe the account as far as it decides about the size of calls."""
        return TextAccount(
            name="openai",
            key=SecretStr(""),
            model=self.openai_model,
            requests=self.openai_rpm,
            tokens=self.openai_tpm,
            prices=Prices(input_usd=0, output_usd=0, image_usd=0),
            timeout_s=1,
            reasoning_effort=self.openai_reasoning_effort,
            reasoning_tokens=self.openai_reasoning_tokens,
        )

    def provider_limits(self) -> ProviderLimits:
        return ProviderLimits(
            openai_rpm=self.openai_rpm,
            openai_tpm=self.openai_tpm,
            replicate_rpm=self.replicate_rpm,
            replicate_read_rpm=self.replicate_read_rpm,
            largest_call_tokens=largest_call_tokens(self.text_account()),
        )


def limits_of(variables: Mapping[str, str]) -> ProviderLimits:
    """Return the limits in these variables, else those of this process, else the defaults."""
    chosen = {name: variables.get(name.upper()) or os.environ.get(name.upper()) for name in _NAMES}
    given = {name: value for name, value in chosen.items() if value}
    return LimitSettings.model_validate(given).provider_limits()
