"""Defines the generator's settings."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from services.generator.quota.provider_bucket import ACCOUNT_FLOOR
from shared.domain.errors import Unavailable
from shared.domain.providers_file import ProvidersFile, load_providers_file
from shared.runtime.settings import (
    Count,
    KafkaSettings,
    PostgresSettings,
    ProcessingSettings,
    Seconds,
)


class GeneratorSettings(ProcessingSettings, KafkaSettings, PostgresSettings):
    openai_api_key: SecretStr | None = Field(
        None,
        description="key of the account that pays for texts; required without `PROVIDERS_FILE`",
    )
    openai_base_url: str | None = Field(
        None, description="another address that speaks the same protocol"
    )
    openai_model: str = Field("gpt-4o-mini", description="model that writes texts")
    openai_rpm: float = Field(
        500, gt=0, description="the account's requests a minute for this model"
    )
    openai_tpm: float = Field(
        200_000, gt=0, description="the account's tokens a minute for this model"
    )
    openai_input_price: float | None = Field(
        None,
        ge=0,
        description="US dollars for a million input tokens; unset: the list price of the model"
        " (0.15 for gpt-4o-mini); required for a model without a known price",
    )
    openai_output_price: float | None = Field(
        None,
        ge=0,
        description="US dollars for a million output tokens; unset: the list price of the model"
        " (0.60 for gpt-4o-mini); required for a model without a known price",
    )
    openai_timeout_s: Seconds = Field(
        120, description="seconds of one whole call, until it counts as failed"
    )
    openai_api: Literal["responses", "chat", "auto"] = Field(
        "auto",
        description="the protocol: the Responses API, chat completions, or, with `auto`, chat"
        " completions where the server has no Responses API",
    )
    openai_api_version: str | None = Field(
        None, description="version of Azure OpenAI's API; setting it selects Azure's client"
    )
    openai_reasoning_effort: str | None = Field(
        None, description="effort of a reasoning model; unset: the least that the model has"
    )
    openai_reasoning_tokens: int | None = Field(
        None,
        ge=0,
        description="output tokens of each call that a reasoning model may spend on reasoning;"
        " unset: by model and effort",
    )
    openai_store: bool = Field(False, description="whether OpenAI keeps the answers")

    images: bool = Field(
        True,
        description="`off`: posts have no images, and no provider of images is called",
    )
    replicate_api_token: SecretStr | None = Field(
        None,
        description="token of the account that pays for images; required unless `IMAGES=off` or"
        " `PROVIDERS_FILE` is set",
    )
    replicate_base_url: str | None = Field(
        None, description="another address that speaks the same protocol"
    )
    replicate_model: str = Field(
        "black-forest-labs/flux-schnell", description="owner/name of the model that makes images"
    )
    replicate_rpm: float = Field(600, gt=0, description="predictions created a minute")
    replicate_read_rpm: float = Field(
        3_000, gt=0, description="the account's other calls a minute: polling predictions"
    )
    replicate_price: float | None = Field(
        None,
        ge=0,
        description="US dollars for one image; unset: 0.003 for black-forest-labs/flux-schnell;"
        " required for another model",
    )
    replicate_timeout_s: Seconds = Field(
        300, description="seconds for one image, from its creation"
    )

    providers_file: Path | None = Field(
        None,
        description="the provider accounts (TOML); it replaces the variables of one account for"
        " texts and one for images",
    )

    burst_s: Seconds = Field(1.5, description="seconds of the rate that may be spent at once")
    account_floor: float = Field(
        ACCOUNT_FLOOR,
        ge=0,
        le=0.9,
        description="part of a text account's minute (0 to 0.9) that is always left for other"
        " applications, where the provider's headers show what remains",
    )
    clock_skew_s: float = Field(
        1,
        ge=0,
        description="seconds by which workers' clocks may differ: moved quota waits so long",
    )
    image_dir: Path = Field(Path("images"), description="folder that stores hero images")
    image_base_url: str = Field(
        "http://localhost:3000/images", description="public address of that folder"
    )

    max_attempts: Count = Field(
        8, description="attempts of one job before a transient failure counts as final"
    )
    drain_s: Seconds = Field(
        30,
        description="seconds that jobs continue after SIGTERM; later only paid calls finish",
    )
    dead_letter_limit: Count = Field(
        100,
        description="unreadable records within a minute before the worker stops",
    )
    provider_check: bool = Field(
        False,
        description="whether the generator checks its providers at start, and ends with one line if"
        " the set-up or an account is wrong; the check makes one short call of the text model",
    )
    standin: bool = Field(
        False, description="at least one provider is a stand-in; shown in every report"
    )
    standins: str = Field(
        "",
        description="the providers that are stand-ins, separated by commas: `openai`, `replicate`;"
        " unset: both if `STANDIN` is true",
    )

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.providers_file is not None:
            assert self.account_keys is not None  # read the file and its keys at start
            return self
        missing = ["OPENAI_API_KEY: field required"] if self.openai_api_key is None else []
        if self.images and self.replicate_api_token is None:
            missing.append("REPLICATE_API_TOKEN: field required unless IMAGES=off")
        if missing:
            raise PydanticCustomError("keys", "{missing}", {"missing": "; ".join(missing)})
        return self

    @cached_property
    def accounts(self) -> ProvidersFile | None:
        """The content of `PROVIDERS_FILE`. Raises `Unavailable` if it is not right."""
        return load_providers_file(self.providers_file) if self.providers_file else None

    @cached_property
    def account_keys(self) -> Mapping[str, SecretStr]:
        """The keys of the file's accounts, by variable. Raises `Unavailable` if one is not set."""
        if self.accounts is None:
            return {}
        entries = (*self.accounts.text, *(self.accounts.image if self.images else ()))
        keys = {entry.key: os.environ.get(entry.key, "") for entry in entries}
        if missing := [variable for variable, key in keys.items() if not key]:
            raise Unavailable(f"PROVIDERS_FILE names keys that are not set: {', '.join(missing)}")
        return {variable: SecretStr(key) for variable, key in keys.items()}

    def secrets(self) -> list[str]:
        """Texts that must not be logged, with the keys of `PROVIDERS_FILE`."""
        return [*super().secrets(), *(key.get_secret_value() for key in self.account_keys.values())]

    def standin_names(self) -> tuple[str, ...]:
        """Return the providers that are stand-ins."""
        names = tuple(name.strip() for name in self.standins.split(",") if name.strip())
        return names or (("openai", "replicate") if self.standin else ())
