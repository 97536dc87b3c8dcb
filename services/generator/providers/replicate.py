"""Creates images with Replicate: a prediction is created, read until it ends, and its file fetched.

A prediction has one total deadline from the begin of its creation. Then it is cancelled, and a
later attempt creates another. Reads cost nothing, so a failed read is repeated until the deadline.
"""

import asyncio
import math
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from replicate.client import Client

from services.generator.providers import prediction as predictions
from services.generator.providers.account_choice import AccountState
from services.generator.providers.accounts import ImageAccount
from services.generator.providers.image_files import (
    MAX_IMAGE_BYTES,
    decode_data_uri,
    find_format,
)
from services.generator.providers.outcomes import (
    CallResult,
    Outcome,
    OutcomeKind,
    OutcomeRow,
    TransportFailure,
)
from services.generator.providers.prediction import Prediction, PredictionView
from services.generator.providers.replicate_http import (
    ReplicateHttp,
    close_client,
    create_client,
)
from services.generator.providers.replicate_outcomes import (
    CREATION_OUTCOMES,
    FILE_OUTCOMES,
    GONE_FILE_CODE,
    NO_IMAGE,
    PREDICTION_OUTCOMES,
    READ_OUTCOMES,
    classify,
)
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.rules import Permit
from shared.domain.errors import Transient
from shared.domain.messages import Usage

__all__ = [
    "GeneratedImage",
    "ReplicateImageProvider",
    "UnusablePrediction",
    "close_client",
    "create_client",
]

_WAIT_S = 5
"""The API holds a creation open for so long: a quick image needs no read. See ADR 15."""
_CREATION_S = 30.0
"""The longest time of a creation beyond its wait."""
_READ_S = 15.0
_FILE_S = 60.0
_CANCEL_S = 5.0
_CANCEL_AFTER_EXTRA_S = 30
"""Replicate cancels a prediction on its own so long after our deadline, if we cannot."""
_LATE_S = 30.0
"""The time to read and fetch a prediction of an earlier attempt that is past its deadline."""
_FILES_KEPT_S = 3_600.0
"""Replicate keeps files for an hour: so long the file of a paid prediction is asked for."""
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 5.0
_PAUSE_GROWTH = 1.5
_MISSING_READS = 3
"""A new prediction may be unknown to the next read: so many in a row mean that it is gone."""

_CREATION, _READ, _IMAGE = "image creation", "image read", "image"
"""The kinds of calls, in the evidence of served calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """The file of a finished prediction, and its price."""

    content: bytes
    media_type: str
    usage: Usage


class UnusablePrediction(Exception):
    """The prediction ended without an image: only another one can succeed.

    `usage` is what it cost. `counts` is true if it was paid, or may have been, or if its answer was
    unusable: such predictions are limited in number.
    """

    def __init__(self, outcome: Outcome, usage: Usage) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome
        self.usage = usage
        self.counts = (
            outcome.kind is OutcomeKind.ANSWER_FAULT or outcome.in_doubt or usage.images > 0
        )


@dataclass(slots=True, kw_only=True)
class _Watch:
    """A prediction that is awaited. Times are of the limiter's clock."""

    job: UUID
    id: str
    view: PredictionView
    created_at: float
    deadline: float
    failed_read: Outcome | None = None
    """The outcome of the last read, if it was not served."""
    missing_reads: int = 0


def _growing_pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * _PAUSE_GROWTH, _MAX_PAUSE_S)


class ReplicateImageProvider:
    """Creates images with one account.

    `limiter` counts predictions, and learns from all calls. `read_limiter` counts the reads, which
    are free. `http` fetches the files of other hosts.
    """

    def __init__(
        self,
        client: Client,
        http: httpx.AsyncClient,
        account: ImageAccount,
        *,
        limiter: ProviderLimiter,
        read_limiter: ProviderLimiter,
    ) -> None:
        self._http = ReplicateHttp(client, http)
        self._account = account
        self.limiter = limiter
        self.read_limiter = read_limiter

    @property
    def name(self) -> str:
        """Return the name of the provider account, which is saved with a prediction's id."""
        return self._account.name

    def state_for(self, job: UUID) -> AccountState:
        """Return how soon the account would create an image."""
        return AccountState(
            name=self._account.name,
            fallback=self._account.fallback,
            weight=self._account.weight,
            serves=self.limiter.is_serving(job),
            wait_s=self.limiter.estimate_wait({"requests": 1}),
            calls=self.limiter.calls_last_minute(),
        )

    def is_valid(self, permit: Permit) -> bool:
        """Return whether the prediction may still be created; otherwise it needs a new permit."""
        return self.limiter.is_valid(permit)

    async def acquire_permit(self, job: UUID) -> Permit:
        """Wait for a permit for one prediction."""
        return await self.limiter.acquire({"requests": 1}, job)

    async def create_prediction(self, job: UUID, prompt: str) -> Prediction:
        """Create a prediction, which may have ended already. From now on it is paid for.

        Raises `Transient` or `Permanent`.
        """
        requested_at = self.limiter.now()
        result = await self._send_creation(job, prompt)
        outcome = self.limiter.record_outcome(
            self._classify(CREATION_OUTCOMES, result),
            job=job,
            call=_CREATION,
            requested_at=requested_at,
        )
        prediction_id = predictions.parse_id(result.body)
        if outcome.kind is not OutcomeKind.ANSWER or prediction_id is None:
            raise outcome.to_error()
        return Prediction(
            id=prediction_id,
            account=self._account.name,
            age_s=self.limiter.now() - requested_at,
            view=predictions.parse_view(result.body) or {},
        )

    async def fetch_image(self, job: UUID, prediction: Prediction) -> GeneratedImage:
        """Wait for a prediction and fetch its image.

        Raises `UnusablePrediction` if another prediction is needed. Raises `Transient` or
        `Permanent` for other failures: after `Transient` the same prediction can be awaited again.
        """
        now = self.limiter.now()
        created_at = now - prediction.age_s
        watch = _Watch(
            job=job,
            id=prediction.id,
            view=prediction.view,
            created_at=created_at,
            deadline=created_at + self._account.timeout_s,
        )
        late = now + (_LATE_S if not prediction.view else 0.0)
        try:
            async with asyncio.timeout_at(max(watch.deadline, late)):
                return await self._await_image(watch)
        except TimeoutError:
            raise await self._end_overdue(watch) from None

    async def _send_creation(self, job: UUID, prompt: str) -> CallResult:
        timeout_s = self._account.timeout_s
        path, body = _creation_request(self._account.model)
        body["input"] = {"prompt": prompt, "aspect_ratio": "16:9", "output_format": "png"}
        headers = {
            "Prefer": f"wait={_WAIT_S}",
            "Cancel-After": f"{math.ceil(timeout_s) + _CANCEL_AFTER_EXTRA_S}s",
        }
        return await _within(
            min(timeout_s, _CREATION_S + _WAIT_S),
            self._http.send("POST", path, job=job, body=body, headers=headers),
        )

    async def _await_image(self, watch: _Watch) -> GeneratedImage:
        for is_last in (False, True):
            source = await self._await_output(watch)
            result = await self._fetch_file(source)
            outcome = self._classify(FILE_OUTCOMES, result)
            if outcome.code != GONE_FILE_CODE or is_last:
                break
            watch.view = {}  # read the prediction again, for a fresh address
        if outcome.kind is not OutcomeKind.ANSWER:
            raise self._unusable(watch, outcome)
        self._record(watch, outcome, call=_IMAGE, requested_at=watch.created_at)
        known = find_format(result.body)
        assert known is not None
        return GeneratedImage(
            content=result.body,
            media_type=known.media_type,
            usage=self._account.prices.usage_of_image(),
        )

    async def _await_output(self, watch: _Watch) -> str:
        """Wait until the prediction has ended. Returns the address of its image."""
        await self._read_until_ended(watch)
        outcome = self._classify(PREDICTION_OUTCOMES, CallResult(status=200, body=watch.view))
        if outcome.kind is not OutcomeKind.ANSWER:
            outcome = self._record(watch, outcome, call=_IMAGE, requested_at=watch.created_at)
            raise self._unusable(watch, outcome)
        source = predictions.find_image_source(watch.view.get("output"), self._http.base_url)
        if source is None:
            raise self._unusable(watch, NO_IMAGE)
        return source

    async def _read_until_ended(self, watch: _Watch) -> None:
        pauses = _growing_pauses()
        is_unread = not watch.view
        while not predictions.has_ended(watch.view):
            if not is_unread:
                if watch.view and self.limiter.now() > watch.deadline:
                    raise TimeoutError
                await asyncio.sleep(next(pauses))
            is_unread = False
            await self._read(watch)

    async def _read(self, watch: _Watch) -> None:
        """Read the prediction once. Raises for a failure that ends the attempt."""
        await self.read_limiter.acquire({"reads": 1}, watch.job)
        requested_at = self.limiter.now()
        path = predictions.prediction_path(watch.id)
        result = await _within(_READ_S, self._http.send("GET", path, job=watch.job))
        outcome = self._classify(READ_OUTCOMES, result)
        if outcome.kind is OutcomeKind.THROTTLED:
            watch.failed_read = self.read_limiter.record_outcome(
                outcome, job=watch.job, call=_READ, requested_at=requested_at
            )
            return
        outcome = self._record(watch, outcome, call=_READ, requested_at=requested_at)
        if outcome.kind is OutcomeKind.ANSWER:
            self.read_limiter.record_outcome(
                outcome, job=watch.job, call=_READ, requested_at=requested_at
            )
            watch.view, watch.failed_read, watch.missing_reads = result.body, None, 0
        else:
            self._handle_failed_read(watch, outcome)

    def _handle_failed_read(self, watch: _Watch, outcome: Outcome) -> None:
        watch.failed_read = outcome
        if outcome.kind is OutcomeKind.ANSWER_FAULT:
            watch.missing_reads += 1
            if watch.missing_reads < _MISSING_READS:
                return
            raise UnusablePrediction(replace(outcome, in_doubt=True), Usage())
        is_late = self.limiter.now() > watch.deadline
        if self.limiter.circuit_open or (outcome.kind is not OutcomeKind.OUTAGE and not is_late):
            raise outcome.to_error()

    async def _fetch_file(self, source: str) -> CallResult:
        """Fetch a file, and repeat it while its server fails."""
        if source.startswith("data:"):
            return CallResult(status=200, body=decode_data_uri(source))
        for pause in _growing_pauses():
            result = await _within(
                _FILE_S, self._http.fetch_file(source, max_bytes=MAX_IMAGE_BYTES)
            )
            outcome = self._classify(FILE_OUTCOMES, result)
            if outcome.kind not in (OutcomeKind.OUTAGE, OutcomeKind.THROTTLED):
                return result
            await asyncio.sleep(max(pause, outcome.delay or 0.0))
        raise AssertionError("the pauses never end")

    async def _end_overdue(self, watch: _Watch) -> Exception:
        """Cancel a prediction past its deadline. Returns the error that ends the attempt.

        A prediction that has succeeded, or that could not be read for a reason outside it, is kept
        for the next attempt.
        """
        late_s = self.limiter.now() - watch.deadline
        if predictions.has_ended(watch.view) and late_s < _FILES_KEPT_S:
            return _file_pending_error()
        failed = watch.failed_read
        if failed is not None and (
            self.limiter.circuit_open or failed.kind is OutcomeKind.THROTTLED
        ):
            return failed.to_error()
        watch.view = await self._cancel(watch) or watch.view
        if predictions.status_of(watch.view) == "succeeded" and late_s < _FILES_KEPT_S:
            return _file_pending_error()
        outcome = self._classify(PREDICTION_OUTCOMES, CallResult())
        outcome = self._record(watch, outcome, call=_IMAGE, requested_at=watch.created_at)
        return self._unusable(watch, replace(outcome, in_doubt=not watch.view))

    async def _cancel(self, watch: _Watch) -> PredictionView | None:
        """Cancel the prediction if the API answers soon. Returns its last state, if known."""
        with suppress(TimeoutError, Transient):
            async with asyncio.timeout(_CANCEL_S):
                await self.read_limiter.acquire({"reads": 1}, watch.job)
                path = f"{predictions.prediction_path(watch.id)}/cancel"
                result = await self._http.send("POST", path, job=watch.job)
                return predictions.parse_view(result.body)
        return None

    def _unusable(self, watch: _Watch, outcome: Outcome) -> UnusablePrediction:
        """Build the error of an ended prediction, with its price if it is billed.

        A failed prediction has no price. A cancelled one is billed if it began to run.
        """
        status = predictions.status_of(watch.view)
        is_billed = bool(status) and status != "failed" and predictions.may_have_run(watch.view)
        usage = self._account.prices.usage_of_image() if is_billed else Usage()
        return UnusablePrediction(outcome, usage)

    def _record(
        self, watch: _Watch, outcome: Outcome, *, call: str, requested_at: float
    ) -> Outcome:
        return self.limiter.record_outcome(
            outcome, job=watch.job, call=call, requested_at=requested_at, billed=False
        )

    def _classify(self, table: Sequence[OutcomeRow], result: CallResult) -> Outcome:
        return classify(table, result, datetime.now(UTC))


async def _within(seconds: float, call: Awaitable[CallResult]) -> CallResult:
    """Await a call within a total time: connection, headers and body."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        return CallResult(
            failure=TransportFailure.TIMEOUT, detail=f"no whole answer in {seconds:g} s"
        )


def _creation_request(model: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the body that name a model: `owner/name`, or one of its versions."""
    owner_and_name, _, version = model.partition(":")
    if version:
        return "/v1/predictions", {"version": version}
    if "/" not in model:
        return "/v1/predictions", {"version": model}
    return f"/v1/models/{owner_and_name}/predictions", {}


def _file_pending_error() -> Transient:
    return Transient(
        "the prediction has succeeded, and its file is not fetched yet",
        code="replicate-file-pending",
        blameless=True,
    )
