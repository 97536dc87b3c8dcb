"""A server that speaks as OpenAI and as Replicate, and refuses what they refuse.

It knows one key, one model of each kind, and the paths below /v1. It shares no code with the
stand-ins.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.system.home import free_port
from shared.http import server
from tests.support.backend import running_service

KEY, TOKEN = "sk-right-0123456789", "r8_right0123456789"
TEXT_MODEL, IMAGE_MODEL = "gpt-4o-mini", "black-forest-labs/flux-schnell"
FLUX_INPUTS = ("prompt", "aspect_ratio", "output_format", "num_outputs", "seed", "go_fast")
_MIN_OUTPUT_TOKENS = 16


@dataclass(slots=True, kw_only=True)
class StrictProvider:
    """The server's behaviour. `answers` replace the answer of a path."""

    url: str
    answers: dict[str, Response] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    """Rate-limit headers of texts."""
    refused_parameters: tuple[str, ...] = ()
    refuses_schema: bool = False
    echoes_keys: bool = False
    """Whether refusals repeat the wrong key, as some gateways do."""
    image_inputs: tuple[str, ...] | None = FLUX_INPUTS
    required_inputs: tuple[str, ...] = ("prompt",)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/responses", self._respond, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/account", self._account),
                Route("/v1/models/{owner}/{name}", self._model),
                Route("/website/{path:path}", self._page, methods=["GET", "POST"]),
            ]
        )

    async def _respond(self, request: Request) -> Response:
        body = await request.json()
        if refusal := self._refuse_text(request, body, limit="max_output_tokens"):
            return refusal
        answer = {
            "id": "resp_1",
            "object": "response",
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [],
            "usage": {"input_tokens": 200, "output_tokens": body["max_output_tokens"]},
        }
        return JSONResponse(answer, headers=self.limits)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        limit = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
        if refusal := self._refuse_text(request, body, limit=limit):
            return refusal
        message = {"role": "assistant", "content": '{"title": "How'}
        answer = {
            "object": "chat.completion",
            "choices": [{"index": 0, "finish_reason": "length", "message": message}],
            "usage": {"prompt_tokens": 200, "completion_tokens": body[limit]},
        }
        return JSONResponse(answer, headers=self.limits)

    def _refuse_text(
        self, request: Request, body: dict[str, Any], *, limit: str
    ) -> Response | None:
        self.paths.append(request.url.path)
        self.bodies.append(body)
        if scripted := self.answers.get(request.url.path):
            return scripted
        if request.headers.get("authorization") != f"Bearer {KEY}":
            message = f"Incorrect API key provided{self._echo(request)}."
            return openai_error(401, message, code="invalid_api_key")
        if body["model"] != TEXT_MODEL:
            message = f"The model `{body['model']}` does not exist or you do not have access to it."
            return openai_error(404, message, code="model_not_found")
        return self._refuse_parameters(body, limit)

    def _refuse_parameters(self, body: dict[str, Any], limit: str) -> Response | None:
        for name in self.refused_parameters:
            if name in body:
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                return openai_error(400, message, code="unsupported_parameter", param=name)
        if self.refuses_schema and "'json_schema'" in str(body):
            message = "Invalid parameter: 'text.format' of type 'json_schema' is not supported."
            return openai_error(400, message, code="unsupported_value", param="text.format")
        if body[limit] < _MIN_OUTPUT_TOKENS:
            message = f"Invalid '{limit}': expected a value >= {_MIN_OUTPUT_TOKENS}."
            return openai_error(400, message, code="integer_below_min_value", param=limit)
        return None

    async def _account(self, request: Request) -> Response:
        return self._refuse_read(request) or JSONResponse(
            {"type": "user", "username": "shop", "name": "Shop"}
        )

    async def _model(self, request: Request) -> Response:
        if refusal := self._refuse_read(request):
            return refusal
        model = f"{request.path_params['owner']}/{request.path_params['name']}"
        if model != IMAGE_MODEL:
            return replicate_error(404, "Not found", "The requested resource could not be found.")
        version: dict[str, Any] = {"id": "5c9"}
        if self.image_inputs is not None:
            inputs = {name: {"type": "string"} for name in self.image_inputs}
            schema = {"required": list(self.required_inputs), "properties": inputs}
            version["openapi_schema"] = {"components": {"schemas": {"Input": schema}}}
        return JSONResponse({"owner": "black-forest-labs", "latest_version": version})

    def _refuse_read(self, request: Request) -> Response | None:
        self.paths.append(request.url.path)
        if scripted := self.answers.get(request.url.path):
            return scripted
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            message = f"You did not pass a valid token{self._echo(request)}."
            return replicate_error(401, "Unauthenticated", message)
        return None

    def _echo(self, request: Request) -> str:
        return f": {request.headers.get('authorization')}" if self.echoes_keys else ""

    async def _page(self, request: Request) -> Response:
        return HTMLResponse("<!doctype html><html><title>Our shop</title><p>Welcome</html>")


def openai_error(
    status: int, message: str, *, code: str | None, param: str | None = None
) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status)


def replicate_error(status: int, title: str, detail: str) -> Response:
    return JSONResponse({"title": title, "detail": detail, "status": status}, status)


@asynccontextmanager
async def start_strict_provider() -> AsyncIterator[StrictProvider]:
    port = free_port()
    provider = StrictProvider(url=f"http://127.0.0.1:{port}")
    listener = server.open_listener("127.0.0.1", port)
    async with running_service(partial(server.serve_http, provider.application(), listener)):
        yield provider
