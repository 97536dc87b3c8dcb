"""Decides which request bodies, parameters and cursors are valid. Pure."""

import base64
import math
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError

from shared.domain.api_keys import STORE_NAME
from shared.http.query import parameter_name_errors

Model = TypeVar("Model", bound=BaseModel)

_MAX_ERRORS = 50
_NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""Accepts all spaces and emoji joiners; refuses only what PostgreSQL or a log cannot take."""
_NOT_BLANK = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
_PATTERN_DETAILS = {
    _NO_CONTROL_CHARACTERS: "must not contain control characters",
    _NOT_BLANK: "must not be blank, nor contain control characters",
}

Text = Annotated[str, Field(pattern=_NO_CONTROL_CHARACTERS)]
NonBlankText = Annotated[str, Field(pattern=_NOT_BLANK, min_length=1)]
"""Text for a prompt, which must not be empty."""


class InvalidRequestError(Exception):
    """A request with invalid fields. `errors` lists them as [{"field", "detail"}]."""

    def __init__(self, errors: list[dict[str, Any]], detail: str | None = None) -> None:
        super().__init__(
            detail or "; ".join(f"{error['field']}: {error['detail']}" for error in errors)
        )
        self.errors = errors


class NotJsonError(InvalidRequestError):
    """A body that is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__([{"field": "body", "detail": reason}], detail="the body is not JSON")


def invalid_field(field: str, detail: str) -> InvalidRequestError:
    """Return the error for one invalid field."""
    return InvalidRequestError([{"field": field, "detail": detail}])


def parse_model(model: type[Model], body: Any, context: object = None) -> Model:
    """Validate a decoded body. Raises `InvalidRequestError` with every invalid field, up to 50."""
    try:
        return model.model_validate(body, context=context)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[:_MAX_ERRORS]
        raise InvalidRequestError([_field_error(detail) for detail in details]) from None


def _field_error(error: Any) -> dict[str, Any]:
    if error["type"] == "model_type":
        return {"field": "body", "detail": "must be a JSON object"}
    details = {"extra_forbidden": "is not a known field", "missing": "is required"}
    detail = details.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] == "string_pattern_mismatch":
        detail = _PATTERN_DETAILS.get(error["ctx"]["pattern"], detail)
    return {"field": ".".join(map(str, error["loc"])), "detail": detail}


def check_parameters(given: Sequence[str], known: Collection[str]) -> None:
    """Refuse unknown query parameters, and parameters given more than once."""
    if errors := parameter_name_errors(given, known):
        raise InvalidRequestError(errors)


def parse_limit(text: str) -> int:
    """Parse the page size of a list: 1 to 100."""
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= 100:
        raise invalid_field("limit", "must be a number from 1 to 100")
    return int(text)


def parse_job_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise invalid_field("job", "must be a job's id") from None


def is_store_name(text: str) -> bool:
    return STORE_NAME.fullmatch(text) is not None


def select_store(own: str | None, requested: str | None) -> str:
    """Return the store whose items to list.

    A store (`own`) lists its own items. An operator (`own` is `None`) must name the store.
    """
    if own is None and requested is None:
        raise invalid_field("store", "is required with an operator's key")
    if own is not None and requested not in (None, own):
        raise invalid_field("store", "must be the store of the key")
    if requested is not None and not is_store_name(requested):
        raise invalid_field("store", "must be a store's name")
    return own or str(requested)


def encode_cursor(created_at: datetime, item: UUID) -> str:
    """Return the opaque position after this item in a list."""
    text = f"{created_at.isoformat()} {item}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Return the creation time and id that `encode_cursor` encoded."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, item = text.partition(" ")
        created_at = datetime.fromisoformat(at)
        if created_at.tzinfo is None:
            raise ValueError("a time without a zone")
        return created_at.astimezone(UTC), UUID(item)
    except (ValueError, OverflowError):
        raise invalid_field("cursor", "is not a cursor of this list") from None


def retry_after_seconds(seconds: float) -> int:
    """Round up to whole seconds for `Retry-After`; at least 1, because 0 means retry at once."""
    return max(1, math.ceil(seconds))
