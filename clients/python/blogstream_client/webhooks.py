"""Checking webhooks, as the Standard Webhooks specification has it."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any


class WebhookVerificationError(Exception):
    """It was not signed with this secret, or too long ago."""


def verify_webhook(
    secret: str, headers: Mapping[str, str], body: bytes, *, tolerance_s: float = 300, now: float | None = None
) -> dict[str, Any]:
    """What a webhook says. `now` (seconds since the epoch) is the clock's when it is not given."""
    named = {name.lower(): value for name, value in headers.items()}
    try:
        message, stamp = named["webhook-id"], named["webhook-timestamp"]
        given, at = named["webhook-signature"].split(" "), int(stamp)
    except (KeyError, ValueError):
        raise WebhookVerificationError("a header is missing") from None
    if abs((time.time() if now is None else now) - at) > tolerance_s:
        raise WebhookVerificationError("it is too old, or of the future")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    right = "v1," + base64.b64encode(hmac.digest(key, f"{message}.{stamp}.".encode() + body, "sha256")).decode()
    if not any(hmac.compare_digest(right.encode(), one.encode()) for one in given):
        raise WebhookVerificationError("no signature fits")
    said: dict[str, Any] = json.loads(body)
    return said
