"""Creates images with Replicate: a prediction is created, awaited, and its file fetched.

A prediction has one total deadline from the begin of its creation. Then it is cancelled, and a
later attempt creates another.
"""

import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from replicate.client import Client

from services.generator.providers.accounts.account import ImageAccount
from services.generator.providers.accounts.choice import AccountState
from services.generator.providers.outcomes.outcome import CallResult, OutcomeKind
from services.generator.providers.replicate import prediction as predictions
from services.generator.providers.replicate.http import ReplicateHttp, within
from services.generator.providers.replicate.outcomes import CREATION_OUTCOMES, classify
from services.generator.providers.replicate.prediction import Prediction
from services.generator.providers.replicate.reads import (
    GeneratedImage,
    PredictionReader,
)
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.rules import Permit, PermitRank

FIXED_INPUTS = {"aspect_ratio": "16:9", "output_format": "png"}
"""The inputs of every prediction beside its prompt."""

_MAX_WAIT_S = 5
"""The API holds a creation open for so long: a quick image needs no read. See ADR 15."""
_WAIT_PART = 4
"""The wait is at most the fourth part of the prediction's total time."""
_CREATION_S = 30.0
"""The longest time of a creation beyond its wait."""
_CANCEL_AFTER_EXTRA_S = 30
"""Replicate cancels a prediction on its own so long after our deadline, if we cannot."""
_CREATION = "image creation"
"""The kind of call, in the evidence of served calls."""


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
        self._reader = PredictionReader(
            self._http, account, limiter=limiter, read_limiter=read_limiter
        )

    @property
    def name(self) -> str:
        """Return the name of the provider account, which is saved with a prediction's id."""
        return self._account.name

    @property
    def fallback(self) -> int:
        return self._account.fallback

    def state_for(self, job: UUID, rank: PermitRank) -> AccountState:
        """Return how soon the account would create an image."""
        return AccountState(
            name=self._account.name,
            fallback=self._account.fallback,
            weight=self._account.weight,
            serves=self.limiter.is_serving(job),
            wait_s=self.limiter.estimate_wait({"requests": 1}, rank),
            calls=self.limiter.calls_last_minute(),
            closed_s=self.limiter.closed_s,
        )

    def is_valid(self, permit: Permit) -> bool:
        """Return whether the prediction may still be created; otherwise it needs a new permit."""
        return self.limiter.is_valid(permit)

    async def acquire_permit(self, job: UUID, rank: PermitRank) -> Permit:
        """Wait for a permit for one prediction."""
        return await self.limiter.acquire({"requests": 1}, job, rank)

    async def create_prediction(self, job: UUID, prompt: str) -> Prediction:
        """Create a prediction, which may have ended already. From now on it is paid for.

        Raises `Transient` or `Permanent`.
        """
        requested_at = self.limiter.now()
        result = await self._send_creation(job, prompt)
        outcome = self.limiter.record_outcome(
            classify(CREATION_OUTCOMES, result, datetime.now(UTC)),
            job=job,
            call=_CREATION,
            requested_at=requested_at,
            billed=False,  # the finished image is billed, and proves that the model serves
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

        Raises `UnusablePrediction` if another prediction is needed. Raises `Transient` for other
        failures: the same prediction can be awaited again.
        """
        return await self._reader.fetch_image(job, prediction)

    async def _send_creation(self, job: UUID, prompt: str) -> CallResult:
        timeout_s = self._account.timeout_s
        path, body = _creation_request(self._account.model)
        body["input"] = {"prompt": prompt, **FIXED_INPUTS}
        wait_s = min(_MAX_WAIT_S, int(timeout_s / _WAIT_PART))
        headers = {"Cancel-After": f"{math.ceil(timeout_s) + _CANCEL_AFTER_EXTRA_S}s"}
        if wait_s > 0:
            headers["Prefer"] = f"wait={wait_s}"
        return await within(
            min(timeout_s, _CREATION_S + wait_s),
            self._http.send("POST", path, job=job, body=body, headers=headers),
        )


def _creation_request(model: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the body that name a model: `owner/name`, or one of its versions."""
    owner_and_name, _, version = model.partition(":")
    if version:
        return "/v1/predictions", {"version": version}
    if "/" not in model:
        return "/v1/predictions", {"version": model}
    return f"/v1/models/{owner_and_name}/predictions", {}
