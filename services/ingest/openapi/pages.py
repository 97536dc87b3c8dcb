"""Serves /openapi.json, and Swagger UI from its installed package at /docs.

A strict content security policy lets the page load nothing from elsewhere.
"""

from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from swagger_ui_bundle import swagger_ui_path

from services.ingest.openapi.document import build_document
from shared.http.responses import Problem

_VERSION = "1"
_STATIC = Path(__file__).parent / "static"
_ASSETS = {
    "swagger-ui.css": Path(swagger_ui_path),
    "swagger-ui-bundle.js": Path(swagger_ui_path),
    "favicon-32x32.png": Path(swagger_ui_path),
    "docs.js": _STATIC,
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


class DocsPages:
    def __init__(self) -> None:
        self._document = orjson.dumps(build_document(version=_VERSION))
        self._page = (_STATIC / "docs.html").read_text(encoding="utf-8")

    async def get_document(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def get_page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers=_HEADERS)

    async def get_asset(self, request: Request) -> Response:
        """Serve a listed file of Swagger UI or of the static folder; no other file."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise Problem(404, "Not Found")
        return FileResponse(
            _ASSETS[name] / name, headers=_HEADERS | {"Cache-Control": "max-age=3600"}
        )
