"""clients/python on what comes to a store's own server: as ingest signs it, changed on its way, or sent by anybody."""

import pytest

from blogstream_client import WebhookVerificationError, verify_webhook
from services.ingest.webhooks.rules import sign

SECRET, BODY = "whsec_" + "A" * 44, b'{"type": "job.done", "title": "caf\xc3\xa9"}'
SAID = {"type": "job.done", "title": "café"}


def signed(body: bytes = BODY) -> dict[str, str]:
    """While secrets change over, two sign."""
    signature = sign(["whsec_BBBB", SECRET], "msg_1", 1000, body)
    return {"Webhook-Id": "msg_1", "webhook-timestamp": "1000", "webhook-signature": signature}


@pytest.mark.parametrize("body", [BODY, BODY.decode()])
@pytest.mark.parametrize("secret", [SECRET, SECRET + "\n"])
def test_what_ingest_signs_is_taken(secret: str, body: bytes | str) -> None:
    assert verify_webhook(secret, signed(), body, now=1010) == SAID


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"Webhook-Id": "msg_2"}, "no signature fits"),
        ({"Webhook-Id": "\udc80"}, "no signature fits"),
        ({"webhook-signature": "v1,x"}, "no signature fits"),
        ({"webhook-signature": ""}, "no signature fits"),
        ({"webhook-signature": "v1,é\udc80"}, "no signature fits"),
        ({"webhook-timestamp": "x"}, "webhook-timestamp is no number"),
        ({"webhook-timestamp": "1_000"}, "webhook-timestamp is no number"),
        ({"webhook-timestamp": "9" * 4000}, "webhook-timestamp is no number"),
        ({"webhook-timestamp": "1001"}, "no signature fits"),
        ({"webhook-timestamp": "700"}, "too old"),
        ({"webhook-timestamp": "9" * 12}, "of the future"),
    ],
)
def test_headers_at_fault_are_refused_and_told(changed: dict[str, str], why: str) -> None:
    with pytest.raises(WebhookVerificationError, match=why):
        verify_webhook(SECRET, signed() | changed, BODY, now=1010)


@pytest.mark.parametrize("name", ["Webhook-Id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = {other: value for other, value in signed().items() if other != name}
    with pytest.raises(WebhookVerificationError, match=f"the header {name.lower()} is missing"):
        verify_webhook(SECRET, headers, BODY, now=1010)


@pytest.mark.parametrize("body", [BODY + b" ", b"", b"\xff", "", "\udc80"])
def test_another_body_is_refused(body: bytes | str) -> None:
    with pytest.raises(WebhookVerificationError, match="no signature fits"):
        verify_webhook(SECRET, signed(), body, now=1010)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'"x"'])
def test_what_is_signed_and_says_nothing_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookVerificationError, match="no JSON object"):
        verify_webhook(SECRET, signed(body), body, now=1010)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", " ", "whsec_AAA", "whsec_schlüssel", "whsec_AA-_", "sk_live_x"]
)
def test_a_secret_that_cannot_be_one_is_the_callers_fault_whatever_is_sent(secret: str) -> None:
    """An empty one above all, of a variable that is not set: anybody could sign with it."""
    for headers in (signed(), {}):
        with pytest.raises(ValueError, match="the webhook secret cannot be one"):
            verify_webhook(secret, headers, BODY, now=1010)
