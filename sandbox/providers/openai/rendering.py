"""Renders an answer as the Responses API or as Chat Completions."""

import time
import uuid
from typing import Any

from sandbox.providers.openai.answer import Answer
from sandbox.providers.openai.request import TextRequest


def render(call: TextRequest, answer: Answer) -> dict[str, Any]:
    """Return the JSON body of an answer."""
    return _render_response(call, answer) if call.api == "responses" else _render_chat(call, answer)


def render_status(call: TextRequest, status: str, error: Any) -> dict[str, Any]:
    """Return a body without a text that reports a status: failed, queued, cancelled, any word.

    `error` is an object, or a text that becomes the message of a `server_error`.
    """
    if isinstance(error, str):
        error = {"code": "server_error", "message": error}
    answer = Answer(text="", input_tokens=0, reasoning_tokens=0, output_tokens=0, stop="stop")
    body = render(call, answer)
    if call.api == "chat":
        body["choices"] = [{"index": 0, "message": None, "logprobs": None, "finish_reason": status}]
        return body | {"usage": None} | ({"error": error} if error is not None else {})
    return body | {"status": status, "error": error, "output": [], "usage": None}


def _render_response(call: TextRequest, answer: Answer) -> dict[str, Any]:
    body, reasons = call.body, {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = reasons.get(answer.stop)
    status = "completed" if reason is None else "incomplete"
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": (body.get("metadata") or {}) | {"standin": "true"},
        "model": body.get("model"),
        "output": _output_items(call, answer, status),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": call.effort, "summary": None},
        "store": body.get("store") is not False,
        "temperature": 1.0 if body.get("temperature") is None else body["temperature"],
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0 if body.get("top_p") is None else body["top_p"],
        "truncation": "disabled",
        "text": body.get("text") or {"format": {"type": "text"}},
        "usage": {
            "input_tokens": answer.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": answer.total_tokens,
        },
    }


def _output_items(call: TextRequest, answer: Answer, status: str) -> list[dict[str, Any]]:
    """Return the reasoning item of a model that reasons, then the message unless none was begun."""
    items: list[dict[str, Any]] = []
    if call.model.reasons:
        items.append({"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "summary": []})
    if answer.stop == "length" and not answer.text and not answer.refusal:
        return items
    content: dict[str, Any] = {"type": "output_text", "text": answer.text, "annotations": []}
    if answer.refusal is not None:
        content = {"type": "refusal", "refusal": answer.refusal}
    message = {"type": "message", "role": "assistant", "status": status, "content": [content]}
    return [*items, {"id": f"msg_{uuid.uuid4().hex}", **message}]


def _render_chat(call: TextRequest, answer: Answer) -> dict[str, Any]:
    content = None if answer.refusal is not None else answer.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "refusal": answer.refusal,
        "annotations": [],
    }
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.body.get("model"),
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.stop}
        ],
        "usage": {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.total_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": answer.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_standin",
    }
