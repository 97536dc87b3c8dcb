"""Calls Replicate: an image is a prediction that is created, polled and fetched.

A prediction is created without `Prefer: wait`, because its id must be saved as soon as it exists:
after a crash the same prediction is fetched and not paid for twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from pydantic.v1 import ValidationError  # the SDK validates with it
from replicate.client import Client, RetryTransport
from replicate.exceptions import ReplicateError

from services.generator.providers.headers import (
    COOL_DOWN_STATUSES,
    DEFAULT_COOL_DOWN_S,
    parse_retry_after,
)
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.rules import Permit
from shared.domain.errors import Permanent, Transient
from shared.observability import tracing

_CREATE_TIMEOUT_S = 30.0
_FIRST_POLL_PAUSE_S = 1.0
_MAX_POLL_PAUSE_S = 5.0
_MAX_IMAGE_BYTES = 16 * 1024 * 1024

_GONE = {"replicate-404", "replicate-gone", "replicate-no-output"}
"""Replicate deletes predictions, their files and their outputs after a while."""

_FILE_GONE_STATUSES = {403, 404, 410}
"""An expired signed URL answers 403."""
_ACCOUNT_STATUSES = {
    401: "the API token is refused",
    402: "the account has no money left",
    403: "the account may not use the model",
}

_job: ContextVar[str] = ContextVar("replicate_job", default="")
_delay: ContextVar[float | None] = ContextVar("replicate_delay", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """The file of a finished prediction."""

    content: bytes
    media_type: str


async def _add_request_headers(request: httpx.Request) -> None:
    """Add the job id, by which bills are read, and the trace context. A request hook."""
    if _job.get():
        request.headers["X-Blogstream-Job"] = _job.get()
    request.headers.update(tracing.trace_headers())


async def _store_delay(response: httpx.Response) -> None:
    """Keep the `Retry-After` delay, which the SDK's errors lose. A response hook."""
    if response.status_code in COOL_DOWN_STATUSES:
        _delay.set(parse_retry_after(response.headers, datetime.now(UTC)))


_HOOKS: Mapping[str, list[Callable[[Any], Awaitable[None]]]] = {
    "request": [_add_request_headers],
    "response": [_store_delay],
}


def create_client(api_token: str, base_url: str | None) -> Client:
    """Create the SDK's client without its own retries, which would bypass the limiter."""
    client = Client(api_token=api_token, base_url=base_url, event_hooks=_HOOKS)
    transport = client._async_client._transport
    assert isinstance(transport, RetryTransport)
    transport.max_attempts = 1
    return client


async def close_client(client: Client) -> None:
    """Close the connections of a client, for which the SDK has no method."""
    await client._async_client.aclose()


class ReplicateImageProvider:
    """Creates one image for a job.

    `limiter` counts predictions, `read_limiter` all other calls. `http` fetches the finished file.
    `timeout_s` limits polling and fetching together.
    """

    def __init__(
        self,
        client: Client,
        http: httpx.AsyncClient,
        *,
        model: str,
        limiter: ProviderLimiter,
        read_limiter: ProviderLimiter,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._http = http
        self._model = model
        self._limiter = limiter
        self._read_limiter = read_limiter
        self._timeout_s = timeout_s

    def is_valid(self, permit: Permit) -> bool:
        """Return whether the prediction may still be created; otherwise it needs a new permit."""
        return self._limiter.is_valid(permit)

    async def acquire_permit(self, *, may_probe: bool = True) -> Permit:
        """Wait for a permit for one prediction."""
        return await self._limiter.acquire({"requests": 1}, may_probe=may_probe)

    async def create_prediction(self, job: UUID, prompt: str) -> str:
        """Create a prediction and return its id. From now on it is paid for."""
        _job.set(str(job))
        requested_at = self._limiter.now()
        inputs = {"prompt": prompt, "aspect_ratio": "16:9", "output_format": "png"}
        try:
            async with asyncio.timeout(_CREATE_TIMEOUT_S):
                call = self._client.models.predictions.async_create(self._model, input=inputs)
                prediction = await self._call(call, self._limiter)
        except TimeoutError:
            raise Transient(
                f"Replicate returned no id within {_CREATE_TIMEOUT_S:g} s",
                code="replicate-timeout",
                in_doubt=True,
                blameless=self._limiter.record_failure(requested_at),
            ) from None
        self._limiter.record_success(requested_at)
        return str(prediction.id)

    async def fetch_image(self, job: UUID, prediction_id: str) -> GeneratedImage | None:
        """Wait for a prediction and fetch its image. Returns `None` if either has been deleted."""
        _job.set(str(job))
        try:
            async with asyncio.timeout(self._timeout_s):
                url = await self._poll(prediction_id)
                return await self._fetch(url)
        except Permanent as error:
            if error.code in _GONE:
                return None
            raise
        except TimeoutError:
            raise Transient(
                f"Replicate took over {self._timeout_s:g} s", code="replicate-timeout"
            ) from None

    async def _poll(self, prediction_id: str) -> str:
        pause = _FIRST_POLL_PAUSE_S
        while True:
            await self._read_limiter.acquire({"reads": 1})
            prediction = await self._call(
                self._client.predictions.async_get(prediction_id), self._read_limiter
            )
            if prediction.status == "succeeded":
                return _find_image_url(prediction.output)
            if prediction.status in ("failed", "canceled"):
                raise Permanent(
                    f"Replicate: {prediction.status}: {prediction.error}", code="replicate-failed"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _MAX_POLL_PAUSE_S)

    async def _fetch(self, url: str) -> GeneratedImage:
        try:
            async with self._http.stream("GET", url) as response:
                if response.status_code in _FILE_GONE_STATUSES:
                    raise Permanent(
                        "Replicate: the image is no longer there", code="replicate-gone"
                    )
                response.raise_for_status()
                media_type = response.headers.get("content-type", "").split(";")[0]
                return GeneratedImage(
                    content=await _read_limited(response, _MAX_IMAGE_BYTES), media_type=media_type
                )
        except httpx.HTTPError as error:
            raise Transient(
                f"the image could not be fetched: {error}", code="replicate-fetch"
            ) from error

    async def _call(self, call: Awaitable[Any], limiter: ProviderLimiter) -> Any:
        """Await a call and translate its errors. `limiter` is the one that admitted the call."""
        requested_at = limiter.now()
        try:
            return await call
        except ReplicateError as error:
            raise self._translate(error, limiter, requested_at) from error
        except httpx.HTTPError as error:
            never_connected = isinstance(
                error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
            )
            raise self._record_failure(
                f"could not be reached: {error!r}",
                "unreachable",
                limiter,
                requested_at,
                in_doubt=not never_connected,
            ) from error
        except (ValueError, TypeError, AttributeError) as error:  # raised by the SDK
            # The SDK does not know the status "aborted".
            if isinstance(error, ValidationError) and "given=aborted" in str(error):
                raise Permanent(
                    "Replicate: the prediction was aborted", code="replicate-aborted"
                ) from error
            raise self._record_failure(
                f"sent an unreadable answer: {error}",
                "unreadable",
                limiter,
                requested_at,
                in_doubt=True,
            ) from error

    def _record_failure(
        self,
        problem: str,
        code: str,
        limiter: ProviderLimiter,
        requested_at: float,
        *,
        in_doubt: bool,
        delay: float | None = None,
    ) -> Transient:
        """Record a failed call and build its error.

        Only the creation of a prediction can be in doubt.
        """
        return Transient(
            f"Replicate {problem}",
            code=f"replicate-{code}",
            delay=delay,
            blameless=limiter.record_failure(requested_at),
            in_doubt=in_doubt and limiter is self._limiter,
        )

    def _translate(
        self, error: ReplicateError, limiter: ProviderLimiter, requested_at: float
    ) -> Transient | Permanent:
        status = error.status or 0
        is_creation = limiter is self._limiter
        if status in _ACCOUNT_STATUSES or (is_creation and status == 404):
            return self._limiter.trip_account(
                _ACCOUNT_STATUSES.get(status, f"the model does not exist: {error.detail}")
            )
        delay = _delay.get() if status in COOL_DOWN_STATUSES else None
        if status in COOL_DOWN_STATUSES:
            limiter.start_cool_down(delay or DEFAULT_COOL_DOWN_S)
        answer = f"answered {status}: {error.detail}"
        if status in (408, 409, 429):
            return Transient(f"Replicate {answer}", delay=delay, code=f"replicate-{status}")
        if status >= 500 or status == 0:
            return self._record_failure(
                answer, str(status), limiter, requested_at, in_doubt=status == 504, delay=delay
            )
        return Permanent(
            f"Replicate refused with {status}: {error.detail}", code=f"replicate-{status}"
        )


async def _read_limited(response: httpx.Response, max_bytes: int) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > max_bytes:
            raise Permanent(f"the image is over {max_bytes:,} bytes", code="replicate-too-large")
    return bytes(content)


def _find_image_url(output: Any) -> str:
    first = output[0] if isinstance(output, list) and output else output
    url = getattr(first, "url", first)
    if not isinstance(url, str) or not url:
        raise Permanent("Replicate finished without an image", code="replicate-no-output")
    return url
