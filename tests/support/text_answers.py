"""Answers of text servers as they come over the wire, in both shapes."""

from typing import Any

import orjson

OUTLINE = {"title": "Herbal tea", "angle": "calm", "headings": ["Why"], "keywords": ["tea"]}
OUTLINE_JSON = orjson.dumps(OUTLINE).decode()


def response_answer(*texts: str, **changes: Any) -> dict[str, Any]:
    """Build an answer of the Responses API with one message for each text."""
    output = [
        {
            "type": "message",
            "id": f"msg_{number}",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }
        for number, text in enumerate(texts)
    ]
    usage = {
        "input_tokens": 210,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 90,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 300,
    }
    answer: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "gpt-4o-mini",
        "output": output,
        "usage": usage,
    }
    return answer | changes


def chat_answer(content: Any, *, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    """Build a chat completion with one choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "qwen3",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content} | message,
            }
        ],
        "usage": {"prompt_tokens": 210, "completion_tokens": 90, "total_tokens": 300},
    }


def error_body(message: str, **fields: Any) -> dict[str, Any]:
    """Build an error in OpenAI's shape."""
    return {"error": {"message": message, "type": None, "param": None, "code": None} | fields}
