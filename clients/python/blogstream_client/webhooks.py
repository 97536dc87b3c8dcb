"""Verifies webhooks according to the Standard Webhooks specification."""

import base64
import hmac
import json
import re
import time
from collections.abc import Mapping
from typing import Any

_SECONDS = re.compile(r"[0-9]{1,12}")


class WebhookVerificationError(Exception):
    """The webhook has a wrong signature, is too old, or is not a webhook of blogstream."""


def verify_webhook(
    secret: str,
    headers: Mapping[str, str],
    body: bytes | str,
    *,
    tolerance_s: float = 300,
    now: float | None = None,
) -> dict[str, Any]:
    """Return the content of a webhook. `now` is in seconds since the epoch, by default the clock's.

    Raises `WebhookVerificationError` for every fault of the sender, and ValueError for an invalid
    secret, regardless of the message.
    """
    key = _decode_secret(secret)
    message, stamp, signatures = _signature_headers(headers)
    if not _SECONDS.fullmatch(stamp):
        raise WebhookVerificationError("webhook-timestamp is no number of seconds")
    if abs((time.time() if now is None else now) - int(stamp)) > tolerance_s:
        raise WebhookVerificationError("it is too old, or of the future")
    content = _to_bytes(body)
    digest = hmac.digest(key, _to_bytes(f"{message}.{stamp}.") + content, "sha256")
    expected = b"v1," + base64.b64encode(digest)
    if not any(hmac.compare_digest(expected, _to_bytes(one)) for one in signatures.split(" ")):
        raise WebhookVerificationError("no signature fits")
    return _parse_content(content)


def _decode_secret(secret: str) -> bytes:
    """Return the key. An empty key is refused: anybody could sign with it."""
    try:
        key = base64.b64decode(secret.strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError(
            "invalid webhook secret: it is whsec_ and base64, complete, as it was issued"
        )
    return key


def _signature_headers(headers: Mapping[str, str]) -> tuple[str, str, str]:
    named = {name.lower(): value for name, value in headers.items()}
    try:
        return named["webhook-id"], named["webhook-timestamp"], named["webhook-signature"]
    except KeyError as missing:
        raise WebhookVerificationError(f"the header {missing.args[0]} is missing") from None


def _to_bytes(text: bytes | str) -> bytes:
    """Encode any text. Invalid Unicode then matches no signature instead of raising an error."""
    return text.encode(errors="surrogatepass") if isinstance(text, str) else text


def _parse_content(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise WebhookVerificationError("it is signed, but no JSON object")
    return parsed
