"""Peer: LiteLLM's router with enforced rpm and tpm of a model, counted by clock minutes.

The router rejects calls above the limit. A rejected call is repeated every second until it is
accepted.
"""

import asyncio
import logging
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

# Without this, the import of litellm downloads a list of prices.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm
import openai
from litellm.router import Router

from bench.account.decisions import AccountLimits
from bench.peers.calls import MODEL, ModelCall, SendCall

_RETRY_AFTER_S = 1.0


@asynccontextmanager
async def open_peer(url: str, limits: AccountLimits) -> AsyncIterator[SendCall]:
    litellm.suppress_debug_info = True
    # litellm causes this warning whenever it rejects a call.
    warnings.filterwarnings("ignore", "coroutine 'aresponses' was never awaited")
    logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
    params: dict[str, Any] = {"model": f"openai/{MODEL}", "api_key": "sk-bench", "api_base": url}
    router = Router(
        model_list=[
            {"model_name": MODEL, "litellm_params": params | {"rpm": limits.rpm, "tpm": limits.tpm}}
        ],
        optional_pre_call_checks=["enforce_model_rate_limits"],
    )

    async def send_call(call: ModelCall) -> object:
        while True:
            try:
                return await router.aresponses(model=MODEL, **call.arguments)
            except openai.RateLimitError:
                await asyncio.sleep(_RETRY_AFTER_S)

    yield send_call
