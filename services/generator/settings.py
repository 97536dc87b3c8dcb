"""generator's settings."""

from pathlib import Path

from pydantic import Field, SecretStr

from shared.runtime.settings import Count, ProcessingSettings, KafkaSettings, PostgresSettings, Seconds


class GeneratorSettings(ProcessingSettings, KafkaSettings, PostgresSettings):
    openai_api_key: SecretStr = Field(description="the account that is billed for texts")
    openai_base_url: str | None = Field(
        None, description="another address that speaks the same protocol"
    )
    openai_model: str = Field("gpt-4o-mini", description="the model that writes")
    openai_rpm: float = Field(
        500, gt=0, description="the account's requests a minute for this model"
    )
    openai_tpm: float = Field(
        200_000, gt=0, description="the account's tokens a minute for this model"
    )
    openai_input_price: float = Field(
        0.15, ge=0, description="US dollars for a million input tokens"
    )
    openai_output_price: float = Field(
        0.60, ge=0, description="US dollars for a million output tokens"
    )
    openai_timeout_s: Seconds = Field(
        120, description="seconds for one call before it counts as failed"
    )

    replicate_api_token: SecretStr = Field(description="the account that is billed for images")
    replicate_base_url: str | None = Field(
        None, description="another address that speaks the same protocol"
    )
    replicate_model: str = Field(
        "black-forest-labs/flux-schnell", description="owner/name of the model that paints"
    )
    replicate_rpm: float = Field(600, gt=0, description="predictions that may be created a minute")
    replicate_read_rpm: float = Field(
        3_000, gt=0, description="the account's other calls a minute: looking after images"
    )
    replicate_price: float = Field(0.003, ge=0, description="US dollars for one image")
    replicate_timeout_s: Seconds = Field(
        300, description="seconds for one image, from its creation"
    )

    burst_s: Seconds = Field(1.5, description="seconds of the rate that may be spent at once")
    clock_skew_s: float = Field(
        1,
        ge=0,
        description="seconds by which two workers' clocks may differ: so much of the budget waits when it moves",
    )
    image_dir: Path = Field(Path("images"), description="the folder that hero images are stored in")
    image_base_url: str = Field(
        "http://localhost:3000/images", description="where readers find that folder"
    )

    max_attempts: Count = Field(
        8, description="claims of one job before a passing failure counts as final"
    )
    drain_s: Seconds = Field(
        30,
        description="seconds that running jobs may go on after SIGTERM; then only calls being paid for are waited for",
    )
    dead_letter_limit: Count = Field(
        100,
        description="records put aside within a minute before the worker stops: something larger is wrong then",
    )
    standin: bool = Field(False, description="the providers are stand-ins: said in every report")
