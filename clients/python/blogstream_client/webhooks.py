"""Checking webhooks, as the Standard Webhooks specification has it."""

import base64
import hmac
import json
import re
import time
from collections.abc import Mapping
from typing import Any

_SECONDS = re.compile(r"[0-9]{1,12}")


class WebhookVerificationError(Exception):
    """It was not signed with this secret, or too long ago, or is no webhook of ours at all."""


def verify_webhook(
    secret: str,
    headers: Mapping[str, str],
    body: bytes | str,
    *,
    tolerance_s: float = 300,
    now: float | None = None,
) -> dict[str, Any]:
    """What a webhook says. `now` (seconds since the epoch) is the clock's when it is not given.

    `WebhookVerificationError` for all that a sender may be at fault for; ValueError for a secret that cannot be one,
    whatever was sent.
    """
    key = _key_of(secret)
    message, stamp, signatures = _signed(headers)
    if not _SECONDS.fullmatch(stamp):
        raise WebhookVerificationError("webhook-timestamp is no number of seconds")
    if abs((time.time() if now is None else now) - int(stamp)) > tolerance_s:
        raise WebhookVerificationError("it is too old, or of the future")
    content = _bytes(body)
    right = (
        "v1,"
        + base64.b64encode(
            hmac.digest(key, _bytes(f"{message}.{stamp}.") + content, "sha256")
        ).decode()
    )
    if not any(hmac.compare_digest(right.encode(), _bytes(one)) for one in signatures.split(" ")):
        raise WebhookVerificationError("no signature fits")
    return _said(content)


def _key_of(secret: str) -> bytes:
    """An empty one would let anybody sign."""
    try:
        key = base64.b64decode(secret.strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError(
            "the webhook secret cannot be one: it is whsec_ and base64, whole, as it was given out"
        )
    return key


def _signed(headers: Mapping[str, str]) -> tuple[str, str, str]:
    named = {name.lower(): value for name, value in headers.items()}
    try:
        return named["webhook-id"], named["webhook-timestamp"], named["webhook-signature"]
    except KeyError as missing:
        raise WebhookVerificationError(f"the header {missing.args[0]} is missing") from None


def _bytes(text: bytes | str) -> bytes:
    """Any text can be: what is no Unicode then fits no signature, and is no other error."""
    return text.encode(errors="surrogatepass") if isinstance(text, str) else text


def _said(content: bytes) -> dict[str, Any]:
    try:
        said = json.loads(content)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise WebhookVerificationError("it is signed, but no JSON object")
    return said
