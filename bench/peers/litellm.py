"""LiteLLM's router with a model's rpm and tpm enforced: counters by the minute of the clock.

It refuses by itself what is over the limit; whoever is refused asks again a second later, until it is let through.
"""

import asyncio
import logging
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

os.environ.setdefault(
    "LITELLM_LOCAL_MODEL_COST_MAP", "True"
)  # or its import fetches a list of prices

import litellm
import openai
from litellm.router import Router

from bench.account.audit import Limits
from bench.peers.calls import MODEL, Ask, Question

_AGAIN_AFTER_S = 1.0


@asynccontextmanager
async def caller(url: str, limits: Limits) -> AsyncIterator[Ask]:
    litellm.suppress_debug_info = True
    warnings.filterwarnings(
        "ignore", "coroutine 'aresponses' was never awaited"
    )  # its own, whenever it refuses
    logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
    writer: dict[str, Any] = {"model": f"openai/{MODEL}", "api_key": "sk-bench", "api_base": url}
    router = Router(
        model_list=[
            {"model_name": MODEL, "litellm_params": writer | {"rpm": limits.rpm, "tpm": limits.tpm}}
        ],
        optional_pre_call_checks=["enforce_model_rate_limits"],
    )

    async def ask(question: Question) -> object:
        while True:
            try:
                return await router.aresponses(model=MODEL, **question.arguments)
            except openai.RateLimitError:
                await asyncio.sleep(_AGAIN_AFTER_S)

    yield ask
