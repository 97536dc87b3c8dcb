"""Sends Replicate's HTTP calls, and returns raw results instead of raising.

The SDK's client provides the address, the token and the connections. Its models are not used: they
refuse statuses that are newer than the SDK.
"""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

import httpx
from replicate.client import Client, RetryTransport

from services.generator.providers.accounts.account import ImageAccount
from services.generator.providers.outcomes.outcome import (
    NEVER_CONNECTED,
    CallResult,
    TransportFailure,
)
from shared.observability import tracing


def create_client(account: ImageAccount) -> Client:
    """Create the SDK's client without its own retries, which would bypass the limiter."""
    client = Client(api_token=account.token.get_secret_value(), base_url=account.base_url)
    transport = client._async_client._transport
    assert isinstance(transport, RetryTransport)
    transport.max_attempts = 1
    return client


async def close_client(client: Client) -> None:
    """Close the connections of a client, for which the SDK has no method."""
    await client._async_client.aclose()


class ReplicateHttp:
    """The HTTP calls of one account. `http` fetches the files of other hosts, without the token."""

    def __init__(self, client: Client, http: httpx.AsyncClient) -> None:
        self._api = client._async_client
        self._http = http

    @property
    def base_url(self) -> str:
        return str(self._api.base_url).rstrip("/")

    async def send(
        self,
        method: str,
        path: str,
        *,
        job: UUID,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> CallResult:
        """Send one call of the API. Bills name the job by its header."""
        extra = {"X-Blogstream-Job": str(job)} | tracing.trace_headers() | (headers or {})
        try:
            response = await self._api.request(method, path, json=body, headers=extra)
        except httpx.HTTPError as error:
            return _failed(error)
        except (httpx.InvalidURL, ValueError) as error:  # such as a host that is no valid name
            return CallResult(failure=TransportFailure.UNREACHABLE, detail=str(error))
        return CallResult(
            status=response.status_code,
            headers=dict(response.headers),
            body=_parse_body(response),
            url=str(response.url),
        )

    async def fetch_file(self, url: str, *, max_bytes: int) -> CallResult:
        """Fetch a file; its body has at most one byte more than `max_bytes`.

        Only the API's own host receives the token: its files need it. A redirect to another host
        drops it.
        """
        try:
            client = self._api if self._is_own_host(url) else self._http
            async with client.stream("GET", url, follow_redirects=True) as response:
                content = bytearray()
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > max_bytes:
                        break
                return CallResult(
                    status=response.status_code,
                    headers=dict(response.headers),
                    body=bytes(content[: max_bytes + 1]),
                )
        except httpx.HTTPError as error:
            return _failed(error)
        except (httpx.InvalidURL, ValueError) as error:  # such as a host that is no valid name
            return CallResult(detail=str(error))

    def _is_own_host(self, url: str) -> bool:
        file, own = httpx.URL(url), self._api.base_url
        return (file.scheme, file.host, file.port) == (own.scheme, own.host, own.port)


async def within(seconds: float, call: Awaitable[CallResult]) -> CallResult:
    """Await a call within a total time: connection, headers and body."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        return CallResult(
            failure=TransportFailure.TIMEOUT, detail=f"no whole answer in {seconds:g} s"
        )


def _failed(error: Exception) -> CallResult:
    if type(error).__name__ in NEVER_CONNECTED:
        failure = TransportFailure.UNREACHABLE
    elif isinstance(error, httpx.TimeoutException):
        failure = TransportFailure.TIMEOUT
    else:
        failure = TransportFailure.LOST
    return CallResult(failure=failure, detail=f"{type(error).__name__}: {error}".rstrip(": "))


def _parse_body(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return response.text
