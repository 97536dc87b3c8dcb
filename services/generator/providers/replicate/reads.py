"""Awaits a prediction of Replicate: reads it until it ends, fetches its file, or cancels it.

Reads cost nothing, so a failed read is repeated until the prediction's deadline. An attempt ends
earlier if the account is rejected or the circuit is open, because then no prediction can be read.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from uuid import UUID

from services.generator.providers.accounts.account import ImageAccount
from services.generator.providers.outcomes.outcome import (
    CallResult,
    Outcome,
    OutcomeKind,
    OutcomeRow,
)
from services.generator.providers.replicate import prediction as predictions
from services.generator.providers.replicate.http import ReplicateHttp, within
from services.generator.providers.replicate.image_files import (
    MAX_IMAGE_BYTES,
    decode_data_uri,
    find_format,
)
from services.generator.providers.replicate.outcomes import (
    FILE_OUTCOMES,
    GONE_FILE_CODE,
    NO_IMAGE,
    PREDICTION_OUTCOMES,
    READ_OUTCOMES,
    classify,
)
from services.generator.providers.replicate.prediction import Prediction, PredictionView
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Transient
from shared.domain.messages import Usage

_READ_S = 15.0
_FILE_S = 60.0
_CANCEL_S = 5.0
_LATE_S = 30.0
"""The time to read and fetch a prediction of an earlier attempt that is past its deadline."""
_FILES_KEPT_S = 3_600.0
"""Replicate keeps files for an hour: so long the file of a paid prediction is asked for."""
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 5.0
_PAUSE_GROWTH = 1.5
_MISSING_READS = 3
"""A new prediction may be unknown to the next read: so many in a row mean that it is gone."""
_FILE_TRIES = 3
"""A file that is no whole image is fetched so often, which is free, before another is paid."""

_OUTSIDE_FAULTS = {OutcomeKind.THROTTLED, OutcomeKind.ACCOUNT_FAULT, OutcomeKind.SETUP_FAULT}
"""Of failed reads: they concern all predictions of the account."""
_READ, _IMAGE = "image read", "image"
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
    is_held_up: bool = False
    """Its next call waits for a permit, or has waited so long that `view` is out of date."""

    @property
    def requested_delay(self) -> float:
        """Return the seconds until the next read that the last failed one requested."""
        return (self.failed_read.delay or 0.0) if self.failed_read is not None else 0.0

    def is_late(self, now: float) -> bool:
        return now > self.deadline

    def is_kept(self, now: float) -> bool:
        """Return whether its file may still exist, if it has succeeded."""
        return now < self.deadline + _FILES_KEPT_S


def _growing_pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * _PAUSE_GROWTH, _MAX_PAUSE_S)


class PredictionReader:
    """Awaits the predictions of one account.

    `limiter` learns from all calls. `read_limiter` counts the reads.
    """

    def __init__(
        self,
        http: ReplicateHttp,
        account: ImageAccount,
        *,
        limiter: ProviderLimiter,
        read_limiter: ProviderLimiter,
    ) -> None:
        self._http = http
        self._account = account
        self._limiter = limiter
        self._read_limiter = read_limiter

    async def fetch_image(self, job: UUID, prediction: Prediction) -> GeneratedImage:
        """Wait for a prediction and fetch its image.

        Raises `UnusablePrediction` if another prediction is needed. Raises `Transient` or
        `Permanent` for other failures: after `Transient` the same prediction can be awaited again.
        """
        now = self._limiter.now()
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

    async def _await_image(self, watch: _Watch) -> GeneratedImage:
        for is_last in (False, True):
            source = await self._await_output(watch)
            result = await self._fetch_file(source)
            outcome = _classify(FILE_OUTCOMES, result)
            if outcome.code != GONE_FILE_CODE or is_last:
                break
            watch.view = {}  # read the prediction again, for a fresh address
        if outcome.kind is not OutcomeKind.ANSWER:
            raise self._unusable(watch, outcome)
        self._record(watch, outcome, call=_IMAGE, requested_at=watch.created_at, billed=True)
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
        outcome = _classify(PREDICTION_OUTCOMES, CallResult(status=200, body=watch.view))
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
                if watch.view and watch.is_late(self._limiter.now()):
                    raise TimeoutError
                await asyncio.sleep(max(next(pauses), watch.requested_delay))
            is_unread = False
            await self._read(watch)

    async def _read(self, watch: _Watch) -> None:
        """Read the prediction once. Raises for a failure that ends the attempt."""
        await self._acquire_permit(watch)
        requested_at = self._limiter.now()
        path = predictions.prediction_path(watch.id)
        result = await within(_READ_S, self._http.send("GET", path, job=watch.job))
        watch.is_held_up = False
        outcome = _classify(READ_OUTCOMES, result)
        if outcome.kind is OutcomeKind.THROTTLED:
            watch.failed_read = self._read_limiter.record_outcome(
                outcome, job=watch.job, call=_READ, requested_at=requested_at
            )
            return
        outcome = self._record(watch, outcome, call=_READ, requested_at=requested_at)
        if outcome.kind is OutcomeKind.ANSWER:
            self._read_limiter.record_outcome(
                outcome, job=watch.job, call=_READ, requested_at=requested_at
            )
            watch.view, watch.failed_read, watch.missing_reads = result.body, None, 0
        else:
            self._handle_failed_read(watch, outcome)

    async def _acquire_permit(self, watch: _Watch) -> None:
        """Wait for a permit for one free call: a read or a cancel."""
        requested_at = self._limiter.now()
        watch.is_held_up = True
        await self._read_limiter.acquire({"reads": 1}, watch.job)
        watch.is_held_up = self._limiter.now() - requested_at > _MAX_PAUSE_S

    def _handle_failed_read(self, watch: _Watch, outcome: Outcome) -> None:
        watch.failed_read = outcome
        if outcome.kind is OutcomeKind.ANSWER_FAULT:
            watch.missing_reads += 1
            if watch.missing_reads < _MISSING_READS:
                return
            raise UnusablePrediction(replace(outcome, in_doubt=True), Usage())
        if watch.is_kept(self._limiter.now()) and self._is_outside(outcome):
            raise outcome.to_error()

    async def _fetch_file(self, source: str) -> CallResult:
        """Fetch a file. Repeat that while its server fails, and a few times for a bad file."""
        if source.startswith("data:"):
            return CallResult(status=200, body=decode_data_uri(source))
        bad_files = 0
        for pause in _growing_pauses():
            result = await within(_FILE_S, self._http.fetch_file(source, max_bytes=MAX_IMAGE_BYTES))
            outcome = _classify(FILE_OUTCOMES, result)
            bad_files += outcome.kind is OutcomeKind.ANSWER_FAULT
            is_passing = outcome.kind in (OutcomeKind.OUTAGE, OutcomeKind.THROTTLED)
            is_bad = outcome.kind is OutcomeKind.ANSWER_FAULT and outcome.code != GONE_FILE_CODE
            if not is_passing and not (is_bad and bad_files < _FILE_TRIES):
                return result
            await asyncio.sleep(max(pause, outcome.delay or 0.0))
        raise AssertionError("the pauses never end")

    async def _end_overdue(self, watch: _Watch) -> Exception:
        """Cancel a prediction past its deadline. Returns the error that ends the attempt.

        The next attempt awaits the same prediction if it has succeeded, if its reads failed for a
        reason outside it, or if a read or the cancel got no permit.
        """
        is_kept = watch.is_kept(self._limiter.now())
        if predictions.has_ended(watch.view) and is_kept:
            return _file_pending_error()
        failed = watch.failed_read
        if failed is not None and is_kept and self._is_outside(failed):
            return failed.to_error()
        if watch.is_held_up and is_kept:
            return self._held_up_error()
        cancelled = await self._cancel(watch)
        if watch.is_held_up and is_kept:
            return self._held_up_error()
        if cancelled is not None:
            watch.view = cancelled
        elif failed is not None:
            watch.view = {}  # its last known state is out of date
        if predictions.status_of(watch.view) == "succeeded" and is_kept:
            return _file_pending_error()
        outcome = _classify(PREDICTION_OUTCOMES, CallResult())
        outcome = self._record(watch, outcome, call=_IMAGE, requested_at=watch.created_at)
        return self._unusable(watch, replace(outcome, in_doubt=not watch.view))

    def _is_outside(self, failed_read: Outcome) -> bool:
        """Return whether a read failed for a reason outside its prediction."""
        return self._limiter.circuit_open or failed_read.kind in _OUTSIDE_FAULTS

    def _held_up_error(self) -> Transient:
        """Build the error of a prediction that was not read because other reads use up the limit.

        The next attempt reads it. It is kept for an hour at most.
        """
        wait_s = self._read_limiter.estimate_wait({"reads": 1})
        return Transient(
            "the prediction is not read yet: the limit on reads is used up, or moves between"
            " workers",
            code="replicate-read-pending",
            delay=wait_s if isfinite(wait_s) else None,
            blameless=True,
        )

    async def _cancel(self, watch: _Watch) -> PredictionView | None:
        """Cancel the prediction if the API answers soon. Returns its last state, if known."""
        with suppress(TimeoutError, Transient):
            async with asyncio.timeout(_CANCEL_S):
                await self._acquire_permit(watch)
                path = f"{predictions.prediction_path(watch.id)}/cancel"
                result = await self._http.send("POST", path, job=watch.job)
                watch.is_held_up = False
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
        self,
        watch: _Watch,
        outcome: Outcome,
        *,
        call: str,
        requested_at: float,
        billed: bool = False,
    ) -> Outcome:
        return self._limiter.record_outcome(
            outcome, job=watch.job, call=call, requested_at=requested_at, billed=billed
        )


def _classify(table: Sequence[OutcomeRow], result: CallResult) -> Outcome:
    return classify(table, result, datetime.now(UTC))


def _file_pending_error() -> Transient:
    return Transient(
        "the prediction has succeeded, and its file is not fetched yet",
        code="replicate-file-pending",
        blameless=True,
    )
