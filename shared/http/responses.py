"""HTTP responses of ingest and metrics: JSON by orjson, and RFC 9457 problems."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


class Problem(Exception):
    """A refused request. Handlers raise it; the response is application/problem+json.

    `errors` names each field at fault: [{"field": "sourceId", "detail": "must not be empty"}].
    `more` has extension members.
    """

    def __init__(
        self,
        status: int,
        title: str,
        *,
        detail: str = "",
        kind: str = "about:blank",
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.kind = kind
        self.errors = errors or []
        self.headers = headers
        self.more = more or {}

    def response(self) -> Response:
        body: dict[str, Any] = {"type": self.kind, "title": self.title, "status": self.status}
        if self.detail:
            body["detail"] = self.detail
        if self.errors:
            body["errors"] = self.errors
        body |= self.more
        return Response(
            orjson.dumps(body, option=orjson.OPT_UTC_Z),
            status_code=self.status,
            headers=dict(self.headers or {}),
            media_type="application/problem+json",
        )
