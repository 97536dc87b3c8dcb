"""Replicate: an image is a prediction that is created, polled and fetched.

It is created without `Prefer: wait`: its id must be saved as soon as it exists, so that after a crash the same
prediction is taken up again and not paid for twice.
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

from services.generator.providers.headers import parse_retry_after
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.rules import Permit
from shared.domain.errors import Permanent, Transient
from shared.observability import tracing

_COOL_DOWN_S = 5.0
_CREATE_WITHIN_S = 30.0
_FIRST_POLL_S = 1.0
_SLOWEST_POLL_S = 5.0
_LARGEST_IMAGE = 16 * 1024 * 1024

_GONE = {"replicate-404", "replicate-gone", "replicate-no-output"}
"""The prediction, its file, or what it says of its file: all are removed after a while."""

_SLOW_DOWN = {429, 503}
_NO_LONGER_THERE = {403, 404, 410}
"""403 is what a signed address answers when its time is over."""
_ACCOUNT = {
    401: "the API token is refused",
    402: "the account has no money left",
    403: "the account may not use the model",
}

_job: ContextVar[str] = ContextVar("replicate_job", default="")
_delay: ContextVar[float | None] = ContextVar("replicate_delay", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    content: bytes
    media_type: str


async def _add_request_headers(request: httpx.Request) -> None:
    """A request hook for the client: the bill is read by job, and traces go on."""
    if _job.get():
        request.headers["X-Blogstream-Job"] = _job.get()
    request.headers.update(tracing.headers())


async def _store_delay(response: httpx.Response) -> None:
    """A response hook for the client: the SDK's errors have lost how long the provider wants us to wait."""
    if response.status_code in _SLOW_DOWN:
        _delay.set(parse_retry_after(response.headers, datetime.now(UTC)))


_HOOKS: Mapping[str, list[Callable[[Any], Awaitable[None]]]] = {
    "request": [_add_request_headers],
    "response": [_store_delay],
}


def create_client(api_token: str, base_url: str | None) -> Client:
    """The SDK's client, but that it does not repeat its reads up to ten times past our limiter."""
    client = Client(api_token=api_token, base_url=base_url, event_hooks=_HOOKS)
    transport = client._async_client._transport
    assert isinstance(transport, RetryTransport)
    transport.max_attempts = 1
    return client


async def close_client(client: Client) -> None:
    """The SDK has no way to close its connections; its asynchronous client is ours alone."""
    await client._async_client.aclose()


class ReplicateImageProvider:
    """Paints one image a job. `limiter` counts predictions, `reads` all other calls.

    `timeout_s` runs from the moment it is asked for; `http` fetches the finished file.
    """

    def __init__(
        self,
        client: Client,
        http: httpx.AsyncClient,
        *,
        model: str,
        limiter: ProviderLimiter,
        reads: ProviderLimiter,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._http = http
        self._model = model
        self._limiter = limiter
        self._reads = reads
        self._timeout_s = timeout_s

    def is_valid(self, grant: Permit) -> bool:
        """Whether the prediction may still be made, or is to wait for its turn once more."""
        return self._limiter.is_valid(grant)

    async def acquire_permit(self, *, may_probe: bool = True) -> Permit:
        """Wait until the limits allow another prediction."""
        return await self._limiter.acquire({"requests": 1}, may_probe=may_probe)

    async def create_prediction(self, job: UUID, prompt: str) -> str:
        """Create the prediction: its id. From here on it is paid for."""
        _job.set(str(job))
        asked_at = self._limiter.now()
        wanted = {"prompt": prompt, "aspect_ratio": "16:9", "output_format": "png"}
        try:
            async with asyncio.timeout(_CREATE_WITHIN_S):
                creating = self._client.models.predictions.async_create(self._model, input=wanted)
                prediction = await self._call(creating, self._limiter)
        except TimeoutError:
            raise Transient(
                f"Replicate gave no id within {_CREATE_WITHIN_S:g} s",
                code="replicate-timeout",
                in_doubt=True,
                blameless=self._limiter.record_failure(asked_at),
            ) from None
        self._limiter.record_success(asked_at)
        return str(prediction.id)

    async def fetch_image(self, job: UUID, prediction_id: str) -> GeneratedImage | None:
        """Wait for a created prediction and fetch what it made. None when it, or what it made, is gone by now."""
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
        pause = _FIRST_POLL_S
        while True:
            await self._reads.acquire({"reads": 1})
            prediction = await self._call(
                self._client.predictions.async_get(prediction_id), self._reads
            )
            if prediction.status == "succeeded":
                return _find_image_url(prediction.output)
            if prediction.status in ("failed", "canceled"):
                raise Permanent(
                    f"Replicate: {prediction.status}: {prediction.error}", code="replicate-failed"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_POLL_S)

    async def _fetch(self, url: str) -> GeneratedImage:
        try:
            async with self._http.stream("GET", url) as answer:
                if answer.status_code in _NO_LONGER_THERE:
                    raise Permanent(
                        "Replicate: the image is no longer there", code="replicate-gone"
                    )
                answer.raise_for_status()
                media_type = answer.headers.get("content-type", "").split(";")[0]
                return GeneratedImage(content=await _read_limited(answer, _LARGEST_IMAGE), media_type=media_type)
        except httpx.HTTPError as error:
            raise Transient(
                f"the image could not be fetched: {error}", code="replicate-fetch"
            ) from error

    async def _call(self, call: Awaitable[Any], limiter: ProviderLimiter) -> Any:
        """What the call answers, or its failure in our words. `limiter` is the one that it was made under."""
        asked_at = limiter.now()
        try:
            return await call
        except ReplicateError as error:
            raise self._translate(error, limiter, asked_at) from error
        except httpx.HTTPError as error:
            unheard = isinstance(
                error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
            )
            raise self._failed(
                f"could not be reached: {error!r}",
                "unreachable",
                limiter,
                asked_at,
                in_doubt=not unheard,
            ) from error
        except (ValueError, TypeError, AttributeError) as error:  # the SDK lets them through
            if isinstance(error, ValidationError) and "given=aborted" in str(
                error
            ):  # a status that the SDK lacks
                raise Permanent(
                    "Replicate: the prediction was aborted", code="replicate-aborted"
                ) from error
            raise self._failed(
                f"answered with something unreadable: {error}",
                "unreadable",
                limiter,
                asked_at,
                in_doubt=True,
            ) from error

    def _failed(
        self,
        what: str,
        code: str,
        limiter: ProviderLimiter,
        asked_at: float,
        *,
        in_doubt: bool,
        delay: float | None = None,
    ) -> Transient:
        """A call that was not served. Only one that creates a prediction is paid for, and so may be in doubt."""
        return Transient(
            f"Replicate {what}",
            code=f"replicate-{code}",
            delay=delay,
            blameless=limiter.record_failure(asked_at),
            in_doubt=in_doubt and limiter is self._limiter,
        )

    def _translate(
        self, error: ReplicateError, limiter: ProviderLimiter, asked_at: float
    ) -> Transient | Permanent:
        status = error.status or 0
        creating = limiter is self._limiter
        if status in _ACCOUNT or (creating and status == 404):
            return self._limiter.trip_account(
                _ACCOUNT.get(status, f"the model is not there: {error.detail}")
            )
        delay = _delay.get() if status in _SLOW_DOWN else None
        if status in _SLOW_DOWN:
            limiter.start_cool_down(delay or _COOL_DOWN_S)
        said = f"answered {status}: {error.detail}"
        if status in (408, 409, 429):
            return Transient(f"Replicate {said}", delay=delay, code=f"replicate-{status}")
        if status >= 500 or status == 0:
            return self._failed(
                said, str(status), limiter, asked_at, in_doubt=status == 504, delay=delay
            )
        return Permanent(
            f"Replicate refused with {status}: {error.detail}", code=f"replicate-{status}"
        )


async def _read_limited(answer: httpx.Response, size: int) -> bytes:
    content = bytearray()
    async for part in answer.aiter_bytes():
        content += part
        if len(content) > size:
            raise Permanent(f"the image is over {size:,} bytes", code="replicate-too-large")
    return bytes(content)


def _find_image_url(output: Any) -> str:
    first = output[0] if isinstance(output, list) and output else output
    url = getattr(first, "url", first)
    if not isinstance(url, str) or not url:
        raise Permanent("Replicate finished without an image", code="replicate-no-output")
    return url
