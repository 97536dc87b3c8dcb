"""The routes of the stand-in for Replicate, and the course of a prediction through them."""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sandbox.providers.content.files import make_file
from sandbox.providers.control import OptionsEndpoint, StandinControl
from sandbox.providers.faults import ScriptedFault
from sandbox.providers.replicate.errors import NOT_FOUND, Problem, Refusal, invalid_input
from sandbox.providers.replicate.failures import (
    failed_call,
    is_charged,
    life_script,
    overridden_fields,
    throttled,
)
from sandbox.providers.replicate.models import Model, find_version, list_models
from sandbox.providers.replicate.predictions import Prediction
from sandbox.providers.wire import delayed_response, json_response, with_standin_header

_STEP = "image"
_MOST_WAIT_S = 60.0
_LONGEST_NAP_S = 1.0
"""A prediction may be canceled while its creator waits for it."""
_REFUSED_TOKENS = ("wrong", "revoked")
_PROPERTIES = {
    "input",
    "version",
    "stream",
    "webhook",
    "webhook_events_filter",
    "webhook_completed",
}


class ReplicateOptions(BaseModel):
    """What the stand-in does differently from Replicate. Changed by /standin/options."""

    model_config = ConfigDict(extra="forbid")

    refuse_unknown_inputs: bool = False
    """Replicate ignores inputs that a model does not know; some versions of Cog refuse them."""
    models: tuple[str, ...] = ()
    """Models beside the known ones, as owner/name. They require a prompt."""


class ReplicateStandin:
    """Creates predictions and serves their files. `options` change while it runs."""

    def __init__(
        self, control: StandinControl, *, base_url: str, options: ReplicateOptions | None = None
    ) -> None:
        self._control = control
        self._base_url = base_url
        self._options = options or ReplicateOptions()
        self._predictions: dict[str, Prediction] = {}

    def application(self) -> Starlette:
        routes = [
            self._route("/v1/models/{owner}/{name}/predictions", self.create, "POST"),
            self._route("/v1/predictions", self.create, "POST"),
            self._route("/v1/predictions/{id}", self.get, "GET"),
            self._route("/v1/predictions/{id}/cancel", self.cancel, "POST"),
            self._route("/v1/models/{owner}/{name}", self.get_model, "GET"),
            self._route("/v1/account", self.get_account, "GET"),
            self._route("/output/{id}/{name}", self.get_file, "GET"),
        ]
        options = OptionsEndpoint(self._options).route()
        return Starlette(routes=[*routes, options, *self._control.routes()])

    async def create(self, request: Request) -> Response:
        """Create a prediction, unless it is refused, over the limit, or scripted to fail."""
        _check_token(request)
        raw, job = await request.body(), request.headers.get("x-blogstream-job", "")
        self._control.record_trace(job, request)
        model, inputs = self._read_call(request, raw)
        denial = self._control.throttle.admit({"requests": 1.0}, time.monotonic())
        if denial is not None:
            self._control.bill.record_rejection()
            return throttled(denial, self._control.throttle)
        fault = self._control.faults.take_next(job, _STEP)
        failure = await self._fail(fault)
        if fault is not None and is_charged(fault):
            self._control.bill.record_charge(job, fault.tokens or 0, _STEP)
        is_id_lost = fault is not None and fault.kind == "cut"
        if failure is not None and not is_id_lost:
            return failure
        prediction = self._start(job, model, inputs, fault)
        if failure is not None:
            return failure
        waited = await _wait(prediction, request.headers.get("prefer", ""))
        is_late = waited and not prediction.has_ended(time.monotonic())
        response = self._show(prediction, 202 if is_late else 201)
        return delayed_response(response, fault)

    async def get(self, request: Request) -> Response:
        _check_token(request)
        prediction = self._find(request)
        job = request.headers.get("x-blogstream-job") or prediction.job
        fault = self._control.faults.take_next(job, _STEP, "poll")
        if (failure := await self._fail(fault)) is not None:
            return failure
        prediction.polls += 1
        if fault is not None and fault.kind == "prediction":
            shown = prediction.as_json(self._base_url, time.monotonic())
            return json_response(shown | overridden_fields(fault))
        return delayed_response(self._show(prediction), fault)

    async def cancel(self, request: Request) -> Response:
        _check_token(request)
        prediction = self._find(request)
        fault = self._control.faults.take_next(prediction.job, _STEP, "cancel")
        if (failure := await self._fail(fault)) is not None:
            return failure
        if prediction.cancel(time.monotonic()):
            self._control.bill.record_cancellation(prediction.job)
        return delayed_response(self._show(prediction), fault)

    async def get_model(self, request: Request) -> Response:
        _check_token(request)
        fault = self._control.faults.take_next("", "", "read")
        if (failure := await self._fail(fault)) is not None:
            return failure
        return delayed_response(
            json_response(self._named_model(request).as_json(self._base_url)), fault
        )

    async def get_account(self, request: Request) -> Response:
        _check_token(request)
        fault = self._control.faults.take_next("", "", "read")
        if (failure := await self._fail(fault)) is not None:
            return failure
        account = {"type": "organization", "username": "stand-in", "name": "Stand-in"}
        return delayed_response(json_response(account), fault)

    async def get_file(self, request: Request) -> Response:
        """Serve a prediction's file, or what is scripted in its place. No token is needed."""
        prediction, now = self._find(request), time.monotonic()
        fault = self._control.faults.take_next(prediction.job, _STEP, "output")
        if (failure := await self._fail(fault)) is not None:
            return failure
        if prediction.is_expired(now):
            raise Refusal(404, "expired")
        kind, name = prediction.file_kind(), request.path_params["name"]
        if kind == "redirect-loop" or (kind == "redirect" and name != "moved.png"):
            return RedirectResponse(f"/output/{prediction.id}/moved.png", 302)
        file = make_file(kind, str(prediction.input.get("prompt", "")))
        return delayed_response(
            Response(file.content, file.status, media_type=file.media_type), fault
        )

    def _route(
        self, path: str, handler: Callable[[Request], Awaitable[Response]], method: str
    ) -> Route:
        """Build a route whose refusals are answered and counted, and whose calls are recorded."""

        async def serve(request: Request) -> Response:
            try:
                response = await handler(request)
            except Refusal as refusal:
                self._control.bill.record_refusal(refusal.code)
                response = refusal.response()
            job = request.headers.get("x-blogstream-job", "")
            call = {"job": job, "step": _STEP, "method": method, "path": request.url.path}
            self._control.record_call(call | {"status": response.status_code})
            return response

        return Route(path, with_standin_header("replicate", serve), methods=[method])

    def _read_call(self, request: Request, raw: bytes) -> tuple[Model, dict[str, Any]]:
        """Return the model and the inputs of a call. Raises `Refusal`."""
        body = _parse(raw)
        by_version = "owner" not in request.path_params
        problems = _check_properties(body, by_version=by_version)
        if problems:
            raise invalid_input(problems)
        model = (
            self._model_of_version(body["version"]) if by_version else self._named_model(request)
        )
        problems = model.check(body["input"], refuse_unknown=self._options.refuse_unknown_inputs)
        if problems:
            raise invalid_input(problems)
        return model, body["input"]

    def _named_model(self, request: Request) -> Model:
        name = f"{request.path_params['owner']}/{request.path_params['name']}"
        model = list_models(self._options.models).get(name)
        if model is None:
            raise Refusal(404, NOT_FOUND)
        return model

    def _model_of_version(self, version: str) -> Model:
        model = find_version(version, list_models(self._options.models))
        if model is None:
            raise Refusal(
                422,
                "The specified version does not exist (or perhaps you don't have permission to use"
                " it?)",
                title="Invalid version or not permitted",
            )
        return model

    def _find(self, request: Request) -> Prediction:
        prediction = self._predictions.get(request.path_params["id"])
        if prediction is None:
            raise Refusal(404, NOT_FOUND)
        return prediction

    def _start(
        self, job: str, model: Model, inputs: dict[str, Any], fault: ScriptedFault | None
    ) -> Prediction:
        """Create and charge a prediction."""
        now, script = time.monotonic(), life_script(fault)
        is_stuck = fault is not None and fault.kind == "stuck"
        prediction = Prediction(
            id=uuid.uuid4().hex[:26],
            job=job,
            model=model,
            input=inputs,
            created_at=now,
            ready_at=math.inf if is_stuck else now + self._control.latency_s(),
            script=script,
        )
        self._predictions[prediction.id] = prediction
        self._control.bill.record_charge(job, 0, _STEP)
        return prediction

    async def _fail(self, fault: ScriptedFault | None) -> Response | None:
        """Return the answer of a fault, or None where it only delays the answer."""
        if fault is None:
            return None
        if fault.kind == "timeout":
            await asyncio.sleep(fault.seconds)
        if fault.kind == "429":
            self._control.bill.record_rejection()
        return failed_call(fault)

    def _show(self, prediction: Prediction, status: int = 200) -> Response:
        return json_response(prediction.as_json(self._base_url, time.monotonic()), status)


def _check_token(request: Request) -> None:
    """Refuse a call without a token, and tokens whose text says that they are wrong or revoked."""
    token = request.headers.get("authorization", "").partition(" ")[2].strip()
    if not token:
        raise Refusal(401, "You did not pass an authentication token", title="Unauthenticated")
    if any(word in token for word in _REFUSED_TOKENS):
        text = "You did not pass a valid authentication token"
        raise Refusal(401, text, title="Unauthenticated")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, "The request body is not a JSON object.", title="Bad request")
    return body


def _check_properties(body: dict[str, Any], *, by_version: bool) -> list[Problem]:
    """Return what is wrong with the call around its inputs."""
    allowed = _PROPERTIES if by_version else _PROPERTIES - {"version"}
    required = ("version", "input") if by_version else ("input",)
    problems = [
        Problem("required", "", f"{name} is required") for name in required if name not in body
    ]
    problems += [
        Problem("additional_property_not_allowed", "", f"Additional property {name} is not allowed")
        for name in body
        if name not in allowed
    ]
    for name, kind, word in (("input", dict, "object"), ("version", str, "string")):
        if name in body and name in allowed and not isinstance(body[name], kind):
            text = f"Invalid type. Expected: {word}, given: {type(body[name]).__name__}"
            problems.append(Problem("invalid_type", name, text))
    return problems


async def _wait(prediction: Prediction, prefer: str) -> bool:
    """Delay the answer for `Prefer: wait` or `wait=n`, by at most 60 or n seconds.

    Returns whether the call asked to wait.
    """
    wanted_s = _parse_prefer(prefer)
    if wanted_s is None:
        return False
    give_up = time.monotonic() + wanted_s
    while (now := time.monotonic()) < give_up and not prediction.has_ended(now):
        await asyncio.sleep(min(give_up - now, prediction.remaining_s(now), _LONGEST_NAP_S))
    return True


def _parse_prefer(prefer: str) -> float | None:
    """Return the seconds of `wait` or `wait=n` in a `Prefer` header, or None without it."""
    for preference in prefer.split(","):
        name, _, value = preference.strip().partition("=")
        if name == "wait":
            return min(float(value), _MOST_WAIT_S) if value.isdigit() else _MOST_WAIT_S
    return None
