"""The rate limits that a command reads, from its environment or from a home's variables."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from sandbox.capacity import ProviderLimits
from services.generator.blog.prompts import largest_call_tokens
from services.generator.settings import GeneratorSettings
from shared.runtime.settings import ProcessingSettings, TopicSettings

_NAMES = ("openai_rpm", "openai_tpm", "replicate_rpm", "replicate_read_rpm")


def _limit(name: str) -> Any:
    return Field(GeneratorSettings.model_fields[name].default, gt=0)


class LimitSettings(ProcessingSettings, TopicSettings):
    """The generator's rate limits, without its required settings."""

    openai_rpm: float = _limit("openai_rpm")
    openai_tpm: float = _limit("openai_tpm")
    replicate_rpm: float = _limit("replicate_rpm")
    replicate_read_rpm: float = _limit("replicate_read_rpm")

    def provider_limits(self) -> ProviderLimits:
        return ProviderLimits(
            openai_rpm=self.openai_rpm,
            openai_tpm=self.openai_tpm,
            replicate_rpm=self.replicate_rpm,
            replicate_read_rpm=self.replicate_read_rpm,
            largest_call_tokens=largest_call_tokens(),
        )


def limits_of(variables: Mapping[str, str]) -> ProviderLimits:
    """Return the limits in these variables, else those of this process, else the defaults."""
    chosen = {name: variables.get(name.upper()) or os.environ.get(name.upper()) for name in _NAMES}
    given = {name: value for name, value in chosen.items() if value}
    return LimitSettings.model_validate(given).provider_limits()
