"""The routes of the stand-in for OpenAI, and the course of a call through them."""

import asyncio
import time
import uuid
from collections.abc import Callable
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.providers.control import OptionsEndpoint, StandinControl
from sandbox.providers.faults import ScriptedFault
from sandbox.providers.openai.answer import ANSWER_FAULTS, write_answer
from sandbox.providers.openai.errors import AbsentRoute, AzureRefusal, Refusal
from sandbox.providers.openai.failures import (
    FAILURES,
    failed_call,
    limit_headers,
    rate_limited,
    scripted_tokens,
)
from sandbox.providers.openai.models import Api, Catalogue
from sandbox.providers.openai.rendering import render
from sandbox.providers.openai.request import (
    OpenAIOptions,
    TextRequest,
    count_tokens,
    find_job,
    find_model,
    parse_body,
    read_prompt,
    read_request,
)
from sandbox.providers.wire import (
    Handler,
    delayed_response,
    json_response,
    scripted_response,
    with_standin_header,
)

FAULTS = ANSWER_FAULTS | FAILURES
_REFUSED_KEYS = ("wrong", "revoked")
_LARGE = ("input", "instructions", "messages", "text", "response_format")
"""Parameters that are not kept in the record of calls."""

Authorize = Callable[[Request], None]


class OpenAIStandin:
    """Answers calls at OpenAI's addresses and at Azure's. `options` change while it runs."""

    def __init__(
        self, control: StandinControl, *, seed: int, options: OpenAIOptions | None = None
    ) -> None:
        self._control = control
        self._seed = seed
        self._options = options or OpenAIOptions()

    def application(self) -> Starlette:
        own = partial(self._serve_text, authorize=_check_key)
        azure = partial(self._serve_text, authorize=_check_azure_key)
        versioned = partial(self._serve_text, authorize=_check_azure_version)
        posts: dict[str, Handler] = {
            "/v1/responses": partial(own, api="responses"),
            "/v1/responses/input_tokens": self.count_tokens,
            "/v1/chat/completions": partial(own, api="chat"),
            "/openai/v1/responses": partial(azure, api="responses"),
            "/openai/v1/chat/completions": partial(azure, api="chat"),
            "/openai/responses": partial(versioned, api="responses"),
            "/openai/deployments/{deployment}/chat/completions": partial(versioned, api="chat"),
        }
        gets: dict[str, Handler] = {
            "/v1/models": self.list_models,
            "/v1/models/{name:path}": self.get_model,
        }
        return Starlette(
            routes=[
                *(_route(path, handler, "POST") for path, handler in posts.items()),
                *(_route(path, handler, "GET") for path, handler in gets.items()),
                OptionsEndpoint(self._options).route(),
                *self._control.routes(),
            ]
        )

    async def list_models(self, request: Request) -> Response:
        models = [_model_card(name) for name in Catalogue(self._options.models).names()]
        return self._read(request, lambda: json_response({"object": "list", "data": models}))

    async def get_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        return self._read(
            request, lambda: json_response(_model_card(find_model(name, self._options).name))
        )

    async def count_tokens(self, request: Request) -> Response:
        raw = await request.body()

        def answer() -> Response:
            tokens = count_tokens(read_prompt(parse_body(raw)))
            return json_response({"object": "response.input_tokens", "input_tokens": tokens})

        return self._read(request, answer)

    def _read(self, request: Request, answer: Callable[[], Response]) -> Response:
        """Answer a call that writes nothing, unless its key is refused or a fault is scripted."""
        fault = self._control.faults.take_next("", "", "read")
        try:
            _check_key(request)
            if fault is not None and fault.kind.isdigit():
                raise Refusal(int(fault.kind), None, "refused (scripted)")
            return scripted_response(fault) if fault is not None else answer()
        except Refusal as refusal:
            self._control.bill.record_refusal(refusal.code or "invalid_request_error")
            return refusal.response()

    async def _serve_text(self, request: Request, *, api: Api, authorize: Authorize) -> Response:
        """Answer a call of either API and remember what it asked for."""
        raw = await request.body()
        record: dict[str, object] = {"path": request.url.path, "job": "", "step": ""}
        try:
            authorize(request)
            self._check_route(api)
            body = parse_body(raw)
            deployment = request.path_params.get("deployment")
            body |= {"model": deployment} if deployment else {}
            record["job"], record["step"] = find_job(request.headers, body)
            record["parameters"] = {name: body[name] for name in body if name not in _LARGE}
            self._control.record_trace(str(record["job"]), request)
            response = await self._answer(_read(request, api, body, self._options))
        except Refusal as refusal:
            self._control.bill.record_refusal(refusal.code or "invalid_request_error")
            self._control.throttle.charge_request(time.monotonic())
            response = refusal.response(self._headers())
            record["code"] = refusal.code
        self._control.record_call(record | {"status": response.status_code})
        return response

    def _check_route(self, api: Api) -> None:
        options = self._options
        status = options.responses_status if api == "responses" else options.chat_status
        if status != 200:
            raise AbsentRoute(status)

    async def _answer(self, call: TextRequest) -> Response:
        needs = {"requests": 1.0, "tokens": float(call.needed_tokens)}
        throttle = self._control.throttle
        denial = throttle.admit(needs, time.monotonic())
        if denial is not None:
            self._control.bill.record_rejection()
            model, headers = call.model.name, self._headers()
            return rate_limited(denial, throttle.style, model=model, headers=headers)
        headers = self._headers()  # what remains when the call is admitted, as OpenAI reports it
        fault = self._control.faults.take_next(call.job, call.step)
        if fault is not None and fault.kind not in ANSWER_FAULTS:
            return await self._fail(fault, call)
        await asyncio.sleep(self._control.latency_s())
        answer = write_answer(
            call, fault, seed=self._seed, reasoning_tokens=self._options.reasoning_tokens
        )
        self._control.bill.record_charge(call.job, answer.total_tokens, call.step)
        response = json_response(render(call, answer), headers=headers)
        return delayed_response(response, fault)

    async def _fail(self, fault: ScriptedFault, call: TextRequest) -> Response:
        if fault.kind == "429":
            self._control.bill.record_rejection()
        if fault.kind == "timeout":
            await asyncio.sleep(fault.seconds)
        tokens = scripted_tokens(fault)
        if tokens is not None:
            self._control.bill.record_charge(call.job, tokens, call.step)
        return failed_call(fault, call, self._headers())

    def _headers(self) -> dict[str, str]:
        headers = {"x-request-id": f"req_{uuid.uuid4().hex}"}
        throttle = self._control.throttle
        if throttle.style == "full":
            headers |= limit_headers(throttle.buckets, time.monotonic())
        return headers


def _read(
    request: Request, api: Api, body: dict[str, object], options: OpenAIOptions
) -> TextRequest:
    try:
        return read_request(api, body, request.headers, options)
    except Refusal as refusal:
        if "deployment" in request.path_params and refusal.code == "model_not_found":
            raise AzureRefusal(
                404,
                "DeploymentNotFound",
                "The API deployment for this resource does not exist. If you created the deployment"
                " within the last 5 minutes, please wait a moment and try again.",
            ) from None
        raise


def _route(path: str, handler: Handler, method: str) -> Route:
    return Route(path, with_standin_header("openai", handler), methods=[method])


def _model_card(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "stand-in"}


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer").strip()


def _is_refused(key: str) -> bool:
    return any(word in key for word in _REFUSED_KEYS)


def _check_key(request: Request) -> None:
    """Refuse a call without a key, and keys whose text says that they are wrong or revoked."""
    key = _bearer(request)
    if not key:
        raise Refusal(401, "invalid_api_key", "You didn't provide an API key.")
    if _is_refused(key):
        text = (
            f"Incorrect API key provided: {key[:8]}****. You can find your API key at"
            " https://platform.openai.com/account/api-keys."
        )
        raise Refusal(401, "invalid_api_key", text)


def _check_azure_key(request: Request) -> None:
    key = request.headers.get("api-key") or _bearer(request)
    if not key or _is_refused(key):
        raise AzureRefusal(
            401,
            "401",
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to"
            " provide a valid key for an active subscription and use a correct regional API"
            " endpoint for your resource.",
        )


def _check_azure_version(request: Request) -> None:
    """Refuse a call without `api-version`: Azure has no such resource."""
    if not request.query_params.get("api-version"):
        raise AzureRefusal(404, "404", "Resource not found")
    _check_azure_key(request)
