"""Reads a prediction of Replicate: its status, its output, and whether it is billed.

A prediction is read as plain JSON: models return their output in many forms, and new statuses
appear.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from services.generator.providers.replicate.image_files import decode_base64, find_format

PredictionView = Mapping[str, Any]
"""The JSON object of a prediction, as the API returned it last."""

_ENDED = {"succeeded", "failed", "canceled", "aborted"}
_NOT_RUNNING = {"starting", "queued"}
_RAN = {"processing", "succeeded", "failed"}
_PREFERRED_KEYS = ("url", "uri", "href", "image", "images", "output", "outputs", "file", "files")
_MAX_DEPTH = 8
_MAX_CANDIDATES = 100
_MAX_URL_CHARACTERS = 8_192
_MIN_BASE64_CHARACTERS = 64
_PATH = re.compile(r"/?[\w.~%+-]+(?:/[\w.~%+-]+)*(?:\?\S*)?", re.ASCII)
_HOST = re.compile(r"[\w.:-]+")
_IMAGE_SUFFIX = re.compile(r"\.(?:png|jpe?g|webp|gif|avif)(?:\?|#|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A created prediction. `age_s` is the time since its creation began, in seconds."""

    id: str
    account: str | None = None
    """The provider account that created it; `None` for one of an older release."""
    age_s: float = 0.0
    view: PredictionView = field(default_factory=dict)
    """Empty for a prediction of an earlier attempt."""


def parse_view(body: Any) -> PredictionView | None:
    """Return the prediction in an answer's body, or `None` if the body holds none."""
    return body if isinstance(body, dict) and isinstance(body.get("status"), str) else None


def parse_id(body: Any) -> str | None:
    """Return the id of the prediction that a creation's answer names, or `None`."""
    found = body.get("id") if isinstance(body, dict) else None
    return found if isinstance(found, str) and found.strip() else None


def prediction_path(prediction_id: str) -> str:
    return f"/v1/predictions/{quote(prediction_id, safe='')}"


def status_of(view: PredictionView) -> str:
    """Return the status in lower case; empty if the prediction has not been read."""
    status = str(view.get("status") or "").strip().lower()
    return "canceled" if status == "cancelled" else status


def has_ended(view: PredictionView) -> bool:
    """Return whether the prediction has ended. An unknown status means that it still runs."""
    return status_of(view) in _ENDED


def may_have_run(view: PredictionView) -> bool:
    """Return whether the prediction may have begun to run: only then it may be billed."""
    status = status_of(view)
    if status == "aborted":
        return False
    is_unclear = status not in _NOT_RUNNING and "started_at" not in view
    return bool(view.get("started_at")) or is_unclear or status in _RAN


def error_text(view: PredictionView) -> str:
    error = view.get("error")
    return error if isinstance(error, str) else "" if error is None else repr(error)


def find_image_source(output: Any, base_url: str) -> str | None:
    """Return the address of the first image in an output, or `None` if there is none.

    The address is an `http` URL or a `data:` URI. A relative path belongs to `base_url`. An address
    that ends like an image goes first.
    """
    found = list(islice(_walk_strings(output, 0), _MAX_CANDIDATES))
    sources = [source for text in found if (source := _parse_source(text, base_url))]
    return next(filter(_names_image, sources), sources[0] if sources else None)


def _walk_strings(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()
    elif depth < _MAX_DEPTH and isinstance(value, list):
        for item in value:
            yield from _walk_strings(item, depth + 1)
    elif depth < _MAX_DEPTH and isinstance(value, dict):
        preferred = [key for key in _PREFERRED_KEYS if key in value]
        for key in [*preferred, *(key for key in value if key not in preferred)]:
            yield from _walk_strings(value[key], depth + 1)


def _parse_source(text: str, base_url: str) -> str | None:
    if text[:5].lower() == "data:":
        return text
    if len(text) >= _MIN_BASE64_CHARACTERS and _is_base64_image(text):
        return f"data:;base64,{text}"
    if not text or len(text) > _MAX_URL_CHARACTERS or any(map(str.isspace, text)):
        return None
    if "://" in text[:10] or text.startswith("//"):
        return _join_url(base_url, text)
    if _PATH.fullmatch(text) and (text.startswith("/") or _IMAGE_SUFFIX.search(text)):
        return _join_url(base_url + "/", text)
    return None


def _is_base64_image(text: str) -> bool:
    begin = decode_base64(text[:_MIN_BASE64_CHARACTERS])
    return begin is not None and find_format(begin) is not None


def _join_url(base_url: str, text: str) -> str | None:
    try:
        joined = urljoin(base_url, text)
        parts = urlsplit(joined)
        has_host = parts.hostname is not None and bool(_HOST.fullmatch(parts.hostname))
        is_valid = has_host and (parts.port is None or parts.port > 0)
    except ValueError:  # such as brackets that do not match, or a port that is no number
        return None
    return joined if is_valid and parts.scheme in ("http", "https") else None


def _names_image(source: str) -> bool:
    return source.startswith(("data:image/", "data:;")) or bool(_IMAGE_SUFFIX.search(source))
