"""/openapi.json, and /docs: Swagger UI from its installed package, under a policy that lets nothing else in."""

from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from swagger_ui_bundle import swagger_ui_path

from services.ingest.openapi import document as openapi
from shared.http.responses import Problem

_VERSION = "1"
_OWN = Path(__file__).parent / "static"
_ASSETS = {
    "swagger-ui.css": Path(swagger_ui_path),
    "swagger-ui-bundle.js": Path(swagger_ui_path),
    "favicon-32x32.png": Path(swagger_ui_path),
    "docs.js": _OWN,
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Docs:
    def __init__(self) -> None:
        self._document = orjson.dumps(openapi.document(version=_VERSION))
        self._page = (_OWN / "docs.html").read_text(encoding="utf-8")

    async def openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers=_HEADERS)

    async def asset(self, request: Request) -> Response:
        """A file of Swagger UI, or ours; nothing else of their folders."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise Problem(404, "Not Found")
        return FileResponse(
            _ASSETS[name] / name, headers=_HEADERS | {"Cache-Control": "max-age=3600"}
        )
