"""The stand-ins' settings: their limits are the account's that the system is told of."""

from pydantic import Field

from shared.runtime.settings import Settings


class StandinSettings(Settings):
    standin_openai_port: int = Field(
        3901, ge=1, le=65_535, description="the port of the one for texts"
    )
    standin_replicate_port: int = Field(
        3902, ge=1, le=65_535, description="the port of the one for images"
    )
    standin_openai_latency_ms: float = Field(
        800, ge=0, description="the median; calls spread around it"
    )
    standin_replicate_latency_ms: float = Field(
        1500, ge=0, description="the median; predictions spread around it"
    )
    standin_seed: int = Field(1, description="the same seed writes the same posts")
    openai_rpm: float = Field(
        500, gt=0, description="requests a minute that it allows, as the provider would"
    )
    openai_tpm: float = Field(200_000, gt=0, description="tokens a minute that it allows")
    replicate_rpm: float = Field(600, gt=0, description="predictions a minute that it allows")
