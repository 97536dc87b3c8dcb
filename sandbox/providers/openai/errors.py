"""Refusals in OpenAI's and Azure's words."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from sandbox.providers.wire import json_response


class Refusal(Exception):
    """A call that OpenAI does not answer. It is never billed."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        param: str | None = None,
        kind: str | None = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        return json_response(self.body, self.status, headers)


class AzureRefusal(Refusal):
    """A refusal by Azure's gateway, before the model: its body has a code and a message only."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.body = {"error": {"code": code, "message": message}}


class AbsentRoute(Refusal):
    """The answer of a server that does not have the route, such as vLLM: without `error`."""

    def __init__(self, status: int) -> None:
        detail = "Method Not Allowed" if status == 405 else "Not Found"
        super().__init__(status, "absent_route", detail)
        self.body = {"detail": detail}


def unknown_parameter(name: str) -> Refusal:
    return Refusal(400, "unknown_parameter", f"Unknown parameter: '{name}'.", param=name)


def missing_parameter(name: str) -> Refusal:
    text = f"Missing required parameter: '{name}'."
    return Refusal(400, "missing_required_parameter", text, param=name)


def unsupported_parameter(name: str, advice: str = "") -> Refusal:
    text = f"Unsupported parameter: '{name}' is not supported with this model.{advice}"
    return Refusal(400, "unsupported_parameter", text, param=name)


def invalid_value(name: str, value: object, supported: str) -> Refusal:
    text = f"Invalid value: '{value}'. Supported values are: {supported}."
    return Refusal(400, "invalid_value", text, param=name)
