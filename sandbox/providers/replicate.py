"""A stand-in for Replicate: predictions with realistic durations and an output URL with a PNG."""

import asyncio
import math
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.providers.control import (
    CutResponse,
    StandinControl,
    json_response,
    with_standin_header,
)
from sandbox.providers.image import draw_image

FAULTS = {"401", "404", "429", "500", "503", "402", "failed", "aborted", "stuck", "cut", "timeout"}
_TITLES = {
    "401": "Unauthenticated",
    "402": "Insufficient credit",
    "404": "Model not found",
    "500": "Internal Error",
    "503": "Unavailable",
}
_EXPIRES_S = 3600.0


@dataclass(slots=True, kw_only=True)
class _Prediction:
    id: str
    model: str
    input: dict[str, Any]
    created_at: float
    ready_at: float
    status: str | None = None
    """The unsuccessful end state: failed, aborted or canceled; `stuck` never ends."""


class ReplicateStandin:
    def __init__(self, control: StandinControl, *, base_url: str) -> None:
        self._control = control
        self._base_url = base_url
        self._predictions: dict[str, _Prediction] = {}

    def application(self) -> Starlette:
        routes = [
            Route(
                "/v1/models/{owner}/{name}/predictions",
                with_standin_header("replicate", self.create),
                methods=["POST"],
            ),
            Route(
                "/v1/predictions", with_standin_header("replicate", self.create), methods=["POST"]
            ),
            Route("/v1/predictions/{id}", with_standin_header("replicate", self.get)),
            Route(
                "/v1/predictions/{id}/cancel",
                with_standin_header("replicate", self.cancel),
                methods=["POST"],
            ),
            Route("/output/{id}/hero.png", with_standin_header("replicate", self.output)),
        ]
        return Starlette(routes=[*routes, *self._control.routes()])

    async def create(self, request: Request) -> Response:
        if not request.headers.get("authorization"):
            return json_response(
                {
                    "title": "Unauthenticated",
                    "detail": "You did not pass an API token",
                    "status": 401,
                },
                401,
            )
        body = orjson.loads(await request.body())
        job = request.headers.get("x-blogstream-job", "")
        self._control.record_trace(job, request)
        now, bucket = time.monotonic(), self._control.buckets["requests"]
        fault = self._control.faults.take_next(job, "image")
        kind = fault.kind if fault else ""
        if kind == "429" or bucket.wait_s(1, now) > 0:
            self._control.bill.record_rejection()
            scripted = fault.retry_after if fault is not None else None
            wait = math.ceil(scripted if scripted is not None else bucket.wait_s(1, now)) or 1
            detail = f"Request was throttled. Your rate limit resets in ~{wait}s."
            return json_response(
                {"detail": detail, "status": 429, "retry_after": wait},
                429,
                {"retry-after": str(wait)},
            )
        bucket.take(1, now)
        if title := _TITLES.get(kind):
            return json_response(
                {"title": title, "detail": f"{title} (scripted)", "status": int(kind)}, int(kind)
            )
        if kind == "timeout":
            assert fault is not None
            await asyncio.sleep(fault.seconds)
        model = "/".join(request.path_params.get(part, "") for part in ("owner", "name"))
        prediction = _Prediction(
            id=uuid.uuid4().hex[:26],
            model=model,
            input=body.get("input", {}),
            created_at=now,
            ready_at=now + self._control.latency_s(),
            status=kind if kind in ("failed", "aborted", "stuck") else None,
        )
        self._predictions[prediction.id] = prediction
        self._control.bill.record_charge(job, 0, "image")
        if kind == "cut":
            return CutResponse()
        await self._wait(prediction, request.headers.get("prefer", ""))
        return json_response(self._view(prediction), 201)

    async def get(self, request: Request) -> Response:
        prediction = self._predictions.get(request.path_params["id"])
        if prediction is None:
            return json_response(
                {"detail": "The requested resource could not be found.", "status": 404}, 404
            )
        fault = self._control.faults.take_next(request.headers.get("x-blogstream-job", ""), "poll")
        if fault is not None:
            return json_response(
                {"detail": "not now (scripted)", "status": 503}, 503, {"retry-after": "1"}
            )
        return json_response(self._view(prediction))

    async def cancel(self, request: Request) -> Response:
        prediction = self._predictions.get(request.path_params["id"])
        if prediction is None:
            return json_response(
                {"detail": "The requested resource could not be found.", "status": 404}, 404
            )
        if self._state(prediction) in ("starting", "processing"):
            prediction.status, prediction.ready_at = "canceled", time.monotonic()
        return json_response(self._view(prediction))

    async def output(self, request: Request) -> Response:
        prediction = self._predictions.get(request.path_params["id"])
        if prediction is None or time.monotonic() > prediction.ready_at + _EXPIRES_S:
            return json_response({"detail": "expired"}, 404)
        return Response(draw_image(str(prediction.input.get("prompt", ""))), media_type="image/png")

    async def _wait(self, prediction: _Prediction, prefer: str) -> None:
        """Delay the response for `Prefer: wait` or `wait=n`, by at most 60 or n seconds."""
        if not prefer.startswith("wait"):
            return
        seconds = float(prefer.partition("=")[2] or 60)
        await asyncio.sleep(min(seconds, max(0.0, prediction.ready_at - time.monotonic())))

    def _state(self, prediction: _Prediction) -> str:
        now = time.monotonic()
        if now < prediction.ready_at or prediction.status == "stuck":
            return "starting" if now < prediction.created_at + 0.1 else "processing"
        return prediction.status or "succeeded"

    def _view(self, prediction: _Prediction) -> dict[str, Any]:
        state, url = self._state(prediction), f"{self._base_url}/v1/predictions/{prediction.id}"
        ended = state not in ("starting", "processing")
        return {
            "id": prediction.id,
            "model": prediction.model,
            "version": "stand-in",
            "input": prediction.input,
            "logs": "stand-in: no model ran",
            "output": [f"{self._base_url}/output/{prediction.id}/hero.png"]
            if state == "succeeded"
            else None,
            "error": "failed, as scripted" if state == "failed" else None,
            "status": state,
            "created_at": datetime.now(UTC).isoformat(),
            "started_at": datetime.now(UTC).isoformat() if state != "starting" else None,
            "completed_at": datetime.now(UTC).isoformat() if ended else None,
            "metrics": {"predict_time": round(prediction.ready_at - prediction.created_at, 3)}
            if ended
            else None,
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }
