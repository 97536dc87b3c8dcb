"""Keyset pagination of lists: newest items first, each page with a cursor to the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
from starlette.datastructures import QueryParams
from starlette.responses import Response

from services.ingest.http import rules
from shared.http.responses import JsonResponse

_DEFAULT_LIMIT = 20


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The part of a list that a client asks for."""

    query: QueryParams
    limit: int
    after: tuple[datetime, UUID] | None

    @property
    def rows(self) -> int:
        """The number of rows to read: one more than the limit shows whether a next page exists."""
        return self.limit + 1

    def answer(
        self,
        path: str,
        rows: Sequence[asyncpg.Record],
        view: Callable[[asyncpg.Record], dict[str, Any]],
    ) -> Response:
        """Return the items, and the next page as a cursor and as a `Link` header."""
        page = rows[: self.limit]
        cursor = (
            rules.encode_cursor(page[-1]["created_at"], page[-1]["id"])
            if len(rows) > self.limit
            else None
        )
        headers = {}
        if cursor is not None:
            parameters = dict(self.query) | {"limit": str(self.limit), "cursor": cursor}
            headers["Link"] = f'<{path}?{urlencode(parameters)}>; rel="next"'
        return JsonResponse({"items": [view(row) for row in page], "next": cursor}, headers=headers)


def parse_page_request(query: QueryParams, known: set[str]) -> PageRequest:
    """Parse the page of a list. `known` holds the list's own parameters."""
    rules.check_parameters(
        [name for name, _ in query.multi_items()], {"limit", "cursor", "store", *known}
    )
    limit = rules.parse_limit(query["limit"]) if "limit" in query else _DEFAULT_LIMIT
    after = rules.decode_cursor(query["cursor"]) if "cursor" in query else None
    return PageRequest(query, limit, after)
