"""Settings of the stand-ins. They enforce the rate limits that the services are configured with."""

from pydantic import Field

from shared.runtime.settings import Settings


class StandinSettings(Settings):
    standins: str = Field(
        "openai,replicate", description="the stand-ins to start, separated by commas"
    )
    standin_openai_port: int = Field(
        3901, ge=1, le=65_535, description="port of the OpenAI stand-in"
    )
    standin_replicate_port: int = Field(
        3902, ge=1, le=65_535, description="port of the Replicate stand-in"
    )
    standin_openai_latency_ms: float = Field(
        800, ge=0, description="median latency of a text call; calls vary around it"
    )
    standin_replicate_latency_ms: float = Field(
        1500, ge=0, description="median duration of a prediction; predictions vary around it"
    )
    standin_seed: int = Field(1, description="the same seed produces the same posts")
    openai_rpm: float = Field(500, gt=0, description="requests per minute that the stand-in allows")
    openai_tpm: float = Field(
        200_000, gt=0, description="tokens per minute that the stand-in allows"
    )
    replicate_rpm: float = Field(
        600, gt=0, description="predictions per minute that the stand-in allows"
    )
