"""A stand-in for OpenAI: the Responses API with structured outputs and enforced rate limits."""

import asyncio
import math
import time
import uuid
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.providers import writer
from sandbox.providers.bucket import go_duration
from sandbox.providers.control import (
    CutResponse,
    StandinControl,
    json_response,
    with_standin_header,
)
from sandbox.providers.faults import ScriptedFault

FAULTS = {
    "401",
    "403",
    "404",
    "429",
    "500",
    "503",
    "insufficient_quota",
    "timeout",
    "cut",
    "malformed",
    "truncated",
    "refusal",
    "schema",
}

_ACCOUNT_ERRORS = {
    "insufficient_quota": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "401": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "403": (
        403,
        "invalid_request_error",
        "model_not_found",
        "Project does not have access to the model.",
    ),
    "404": (404, "invalid_request_error", "model_not_found", "The model does not exist."),
}


class OpenAIStandin:
    def __init__(self, control: StandinControl, *, seed: int) -> None:
        self._control = control
        self._seed = seed

    def application(self) -> Starlette:
        routes = [
            Route(
                "/v1/responses",
                with_standin_header("openai", self.create_response),
                methods=["POST"],
            ),
            Route(
                "/v1/responses/input_tokens",
                with_standin_header("openai", self.count_tokens),
                methods=["POST"],
            ),
            Route("/v1/models", with_standin_header("openai", self.models)),
        ]
        return Starlette(routes=[*routes, *self._control.routes()])

    async def models(self, request: Request) -> Response:
        return json_response(
            {
                "object": "list",
                "data": [{"id": "gpt-4o-mini", "object": "model", "owned_by": "stand-in"}],
            }
        )

    async def count_tokens(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        return json_response(
            {"object": "response.input_tokens", "input_tokens": _tokens(_prompt(body))}
        )

    async def create_response(self, request: Request) -> Response:
        refusal = _unauthorized(request)
        if refusal is not None:
            return refusal
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError:
            return _error(
                400,
                "invalid_request_error",
                None,
                "We could not parse the JSON body of your request.",
            )
        metadata = body.get("metadata") or {}
        job = request.headers.get("x-blogstream-job") or metadata.get("job", "")
        step = metadata.get("step", "")
        self._control.record_trace(job, request)
        refusal = self._over_limit(body)
        if refusal is not None:
            return refusal
        fault = self._control.faults.take_next(job, step)
        if fault is not None and fault.kind not in ("truncated", "refusal", "schema"):
            return await self._fail(fault, body)
        await asyncio.sleep(self._control.latency_s())
        answer = _response(body, self._text(body, fault), fault)
        self._control.bill.record_charge(job, answer["usage"]["total_tokens"], step)
        return json_response(answer, headers=self._headers())

    def _over_limit(self, body: dict[str, Any]) -> Response | None:
        """Take the call's upper bound from the buckets, or return the 429 response."""
        now = time.monotonic()
        needs = {
            "requests": 1.0,
            "tokens": float(_tokens(_prompt(body)) + (body.get("max_output_tokens") or 1_000)),
        }
        for name, need in needs.items():
            bucket = self._control.buckets[name]
            wait = bucket.wait_s(need, now)
            if wait > 0:
                used = bucket.limit - bucket.remaining(now)
                return self._rate_limited(body, name, bucket.limit, used, need, wait)
        for name, need in needs.items():
            self._control.buckets[name].take(need, now)
        return None

    def _rate_limited(
        self, body: dict[str, Any], name: str, limit: float, used: float, need: float, wait: float
    ) -> Response:
        self._control.bill.record_rejection()
        unit = "RPM" if name == "requests" else "TPM"
        message = (
            f"Rate limit reached for {body.get('model')} in organization org-standin"
            f" on {name} per min ({unit}): Limit {limit:.0f}, Used {used:.0f},"
            f" Requested {need:.0f}. Please try again in {go_duration(wait)}."
        )
        headers = self._headers() | {
            "retry-after": str(math.ceil(wait)),
            "retry-after-ms": str(math.ceil(wait * 1000)),
        }
        return _error(429, name, "rate_limit_exceeded", message, headers)

    async def _fail(self, fault: ScriptedFault, body: dict[str, Any]) -> Response:
        headers = self._headers()
        if fault.retry_after is not None:
            headers["retry-after"] = str(math.ceil(fault.retry_after))
        match fault.kind:
            case "429":
                self._control.bill.record_rejection()
                message = (
                    f"Rate limit reached for {body.get('model')} (scripted)."
                    " Please try again in 1s."
                )
                return _error(429, "requests", "rate_limit_exceeded", message, headers)
            case "insufficient_quota" | "401" | "403" | "404":
                return _error(*_ACCOUNT_ERRORS[fault.kind], headers)
            case "500" | "503":
                return _error(
                    int(fault.kind),
                    "server_error",
                    None,
                    "The server had an error (scripted).",
                    headers,
                )
            case "malformed":
                return Response(b'{"id": "resp_', 200, headers, "application/json")
            case "timeout":
                await asyncio.sleep(fault.seconds)
                return _error(504, "server_error", None, "timed out (scripted)", headers)
            case _:
                return CutResponse()

    def _text(self, body: dict[str, Any], fault: ScriptedFault | None) -> str:
        if fault is not None and fault.kind == "schema":
            return '{"unexpected": true}'
        output_format = ((body.get("text") or {}).get("format")) or {}
        if output_format.get("type") != "json_schema":
            return f"This is a stand-in's answer to: {str(body.get('input'))[:200]}"
        filled = writer.write_answer(output_format["schema"], _prompt(body), self._seed)
        return orjson.dumps(filled).decode()

    def _headers(self) -> dict[str, str]:
        now, headers = time.monotonic(), {"x-request-id": f"req_{uuid.uuid4().hex}"}
        for name, bucket in self._control.buckets.items():
            headers[f"x-ratelimit-limit-{name}"] = f"{bucket.limit:.0f}"
            headers[f"x-ratelimit-remaining-{name}"] = f"{bucket.remaining(now):.0f}"
            headers[f"x-ratelimit-reset-{name}"] = go_duration(bucket.full_in_s(now))
        return headers


def _unauthorized(request: Request) -> Response | None:
    if request.headers.get("authorization", "").removeprefix("Bearer ").strip():
        return None
    return _error(401, "invalid_request_error", "invalid_api_key", "You didn't provide an API key.")


def _error(
    status: int, kind: str, code: str | None, message: str, headers: dict[str, str] | None = None
) -> Response:
    return json_response(
        {"error": {"message": message, "type": kind, "param": None, "code": code}}, status, headers
    )


def _prompt(body: dict[str, Any]) -> str:
    parts = [str(body.get("instructions") or "")]
    content = body.get("input")
    parts.append(content if isinstance(content, str) else orjson.dumps(content).decode())
    return "\n".join(parts)


def _tokens(text: str) -> int:
    return len(text) // 4 + 8


def _response(body: dict[str, Any], text: str, fault: ScriptedFault | None) -> dict[str, Any]:
    limit = body.get("max_output_tokens") or 1_000_000
    output_tokens = _tokens(text)
    truncated = output_tokens > limit or (fault is not None and fault.kind == "truncated")
    if truncated:
        output_tokens = min(output_tokens, limit)
        text = text[: max(1, (output_tokens - 8) * 2)]
    if fault is not None and fault.kind == "refusal":
        content: dict[str, Any] = {
            "type": "refusal",
            "refusal": "I can't help with that (scripted).",
        }
    else:
        content = {"type": "output_text", "text": text, "annotations": []}
    input_tokens = _tokens(_prompt(body))
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if truncated else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if truncated else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": (body.get("metadata") or {}) | {"standin": "true"},
        "model": body.get("model"),
        "output": [
            {
                "id": f"msg_{uuid.uuid4().hex}",
                "type": "message",
                "role": "assistant",
                "status": "incomplete" if truncated else "completed",
                "content": [content],
            }
        ],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "usage": {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens,
        },
    }
