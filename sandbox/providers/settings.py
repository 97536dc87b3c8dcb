"""Settings of the stand-ins. They enforce the rate limits that the services are configured with."""

from pydantic import Field

from sandbox.providers.openai.request import OpenAIOptions
from sandbox.providers.replicate.application import ReplicateOptions
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
    standin_openai_models: str = Field(
        "",
        description="models beside the known ones, comma-separated; gpt-5* and o* reason",
    )
    standin_openai_responses_status: int = Field(
        200,
        ge=200,
        le=599,
        description="404 or 405: the status of /v1/responses at a server that has only Chat"
        " Completions",
    )
    standin_openai_refuses_array_bounds: bool = Field(
        False, description="refuse minItems and maxItems in strict schemas, as some servers do"
    )
    standin_replicate_models: str = Field(
        "", description="models beside the known ones, comma-separated, as owner/name"
    )
    standin_replicate_burst: float | None = Field(
        None,
        ge=1,
        description="predictions that may be created at once; unset: one minute's limit. An account"
        " under 5 dollars has 1, and 6 a minute",
    )
    standin_replicate_refuses_unknown_inputs: bool = Field(
        False, description="refuse inputs that the model does not know; Replicate ignores them"
    )
    openai_rpm: float = Field(500, gt=0, description="requests per minute that the stand-in allows")
    openai_tpm: float = Field(
        200_000, gt=0, description="tokens per minute that the stand-in allows"
    )
    replicate_rpm: float = Field(
        600, gt=0, description="predictions per minute that the stand-in allows"
    )

    def openai_options(self) -> OpenAIOptions:
        """Return the options with which the OpenAI stand-in starts."""
        return OpenAIOptions(
            models=_split(self.standin_openai_models),
            responses_status=self.standin_openai_responses_status,
            refuse_array_bounds=self.standin_openai_refuses_array_bounds,
        )

    def replicate_options(self) -> ReplicateOptions:
        """Return the options with which the Replicate stand-in starts."""
        return ReplicateOptions(
            models=_split(self.standin_replicate_models),
            refuse_unknown_inputs=self.standin_replicate_refuses_unknown_inputs,
        )


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())
