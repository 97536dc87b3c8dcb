"""`python -m sandbox.providers`: runs the stand-ins in one process, on loopback ports."""

import asyncio

from sandbox.providers.control import StandinControl
from sandbox.providers.openai import application as openai
from sandbox.providers.replicate.application import ReplicateStandin
from sandbox.providers.replicate.failures import FAULTS as REPLICATE_FAULTS
from sandbox.providers.settings import StandinSettings
from shared.http import server
from shared.observability import log
from shared.runtime import lifecycle

HOST = "127.0.0.1"


async def main(stop: asyncio.Event) -> None:
    settings = StandinSettings.from_environment()
    log.configure_logging("standins", settings.log_level)
    logger = log.get_logger(__name__)
    texts = StandinControl(
        provider="OpenAI",
        limits={"requests": settings.openai_rpm, "tokens": settings.openai_tpm},
        latency_ms=settings.standin_openai_latency_ms,
        seed=settings.standin_seed,
        faults=openai.FAULTS,
    )
    pictures = StandinControl(
        provider="Replicate",
        limits={"requests": settings.replicate_rpm},
        latency_ms=settings.standin_replicate_latency_ms,
        seed=settings.standin_seed + 1,
        faults=REPLICATE_FAULTS,
        burst=settings.standin_replicate_burst,
        style="body",
    )
    replicate_url = f"http://{HOST}:{settings.standin_replicate_port}"
    text_server = openai.OpenAIStandin(
        texts, seed=settings.standin_seed, options=settings.openai_options()
    )
    picture_server = ReplicateStandin(
        pictures, base_url=replicate_url, options=settings.replicate_options()
    )
    known = {
        "openai": (text_server.application(), settings.standin_openai_port),
        "replicate": (picture_server.application(), settings.standin_replicate_port),
    }
    servers = [entry for name, entry in known.items() if name in settings.standins.split(",")]
    listeners = [server.open_listener(HOST, port) for _, port in servers]
    logger.warning(
        "stand-ins started, no model runs in this process",
        standins=settings.standins,
        openai_rpm=settings.openai_rpm,
        openai_tpm=settings.openai_tpm,
        replicate_rpm=settings.replicate_rpm,
    )
    await asyncio.gather(
        *(
            server.serve_http(app, listener, stop, grace_s=2)
            for (app, _), listener in zip(servers, listeners, strict=True)
        )
    )


if __name__ == "__main__":
    lifecycle.run_service(main)
