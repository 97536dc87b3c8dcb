"""Posts a call to a text server: one request, one total deadline, and the raw answer.

The SDK builds the address and the key's header, also for Azure. Its own retries and its lenient
models are not used.
"""

import asyncio
import codecs
from collections.abc import Mapping
from typing import Any

import httpx2
import openai
import orjson
from openai import AsyncAzureOpenAI, AsyncOpenAI

from services.generator.providers.accounts.account import TextAccount
from services.generator.providers.openai.event_streams import looks_like_events, read_event_stream
from services.generator.providers.outcomes.outcome import (
    NEVER_CONNECTED,
    CallResult,
    TransportFailure,
)

_CONNECT_S = 10.0
"""Shorter than the call's deadline, so that a call that never began is told apart."""
_MAX_TEXT_CHARACTERS = 20_000
"""Of a body that is no JSON, such as a gateway's page."""


def create_text_client(account: TextAccount) -> AsyncOpenAI:
    """Create the SDK's client for an account. It makes each call once."""
    key = account.key.get_secret_value()
    timeout = httpx2.Timeout(account.timeout_s, connect=min(_CONNECT_S, account.timeout_s / 2))
    if account.azure_api_version is None:
        return AsyncOpenAI(api_key=key, base_url=account.base_url, max_retries=0, timeout=timeout)
    return AsyncAzureOpenAI(
        api_key=key,
        api_version=account.azure_api_version,
        max_retries=0,
        timeout=timeout,
        **_azure_address(account.base_url or ""),
    )


async def post_call(
    client: AsyncOpenAI,
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    seconds: float,
) -> CallResult:
    """Post a call and read its whole answer within `seconds`. Never raises for its outcome."""
    try:
        async with asyncio.timeout(seconds):
            response = await client.post(
                path, cast_to=httpx2.Response, body=dict(body), options={"headers": dict(headers)}
            )
    except openai.APIStatusError as error:
        return _read_response(error.response)
    except (openai.APITimeoutError, TimeoutError) as error:
        return CallResult(failure=_find_failure(error, TransportFailure.TIMEOUT), detail="timeout")
    except (openai.OpenAIError, httpx2.HTTPError, OSError, ValueError) as error:
        detail = f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}"
        return CallResult(failure=_find_failure(error, TransportFailure.LOST), detail=detail)
    return _read_response(response)


def _azure_address(url: str) -> dict[str, Any]:
    """Use an address that ends in `/openai` as it is, and any other as the resource's address."""
    url = url.rstrip("/")
    return {"base_url": url} if url.endswith("/openai") else {"azure_endpoint": url}


def _find_failure(error: BaseException, other: TransportFailure) -> TransportFailure:
    never_connected = type(error.__cause__).__name__ in NEVER_CONNECTED
    return TransportFailure.UNREACHABLE if never_connected else other


def _read_response(response: Any) -> CallResult:
    return CallResult(
        status=response.status_code,
        headers=dict(response.headers),
        body=parse_body(response.content),
        url=str(response.url),
    )


def parse_body(content: bytes) -> Any:
    """Parse a body as JSON or as server-sent events, or return its text."""
    try:
        return orjson.loads(content.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
        text = content.decode(errors="replace")
    return read_event_stream(text) if looks_like_events(text) else text[:_MAX_TEXT_CHARACTERS]
