"""The Python client's webhook verification: genuine, altered and forged messages."""

import pytest

from blogstream_client import WebhookVerificationError, verify_webhook
from services.ingest.webhooks.rules import sign

SECRET, BODY = "whsec_" + "A" * 44, b'{"type": "job.done", "title": "caf\xc3\xa9"}'
CONTENT = {"type": "job.done", "title": "café"}


def signed_headers(body: bytes = BODY) -> dict[str, str]:
    """Return headers with two signatures, as during the rotation of a secret."""
    signature = sign(["whsec_BBBB", SECRET], "msg_1", 1000, body)
    return {"Webhook-Id": "msg_1", "webhook-timestamp": "1000", "webhook-signature": signature}


@pytest.mark.parametrize("body", [BODY, BODY.decode()])
@pytest.mark.parametrize("secret", [SECRET, SECRET + "\n"])
def test_signature_of_ingest_is_accepted(secret: str, body: bytes | str) -> None:
    assert verify_webhook(secret, signed_headers(), body, now=1010) == CONTENT


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
def test_invalid_header_is_refused_with_its_reason(changed: dict[str, str], why: str) -> None:
    with pytest.raises(WebhookVerificationError, match=why):
        verify_webhook(SECRET, signed_headers() | changed, BODY, now=1010)


@pytest.mark.parametrize("name", ["Webhook-Id", "webhook-timestamp", "webhook-signature"])
def test_missing_header_is_named(name: str) -> None:
    headers = {other: value for other, value in signed_headers().items() if other != name}
    with pytest.raises(WebhookVerificationError, match=f"the header {name.lower()} is missing"):
        verify_webhook(SECRET, headers, BODY, now=1010)


@pytest.mark.parametrize("body", [BODY + b" ", b"", b"\xff", "", "\udc80"])
def test_altered_body_is_refused(body: bytes | str) -> None:
    with pytest.raises(WebhookVerificationError, match="no signature fits"):
        verify_webhook(SECRET, signed_headers(), body, now=1010)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'"x"'])
def test_signed_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookVerificationError, match="no JSON object"):
        verify_webhook(SECRET, signed_headers(body), body, now=1010)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", " ", "whsec_AAA", "whsec_schlüssel", "whsec_AA-_", "sk_live_x"]
)
def test_invalid_secret_is_a_value_error(secret: str) -> None:
    """The error does not depend on the message. Anybody could sign with an empty secret."""
    for headers in (signed_headers(), {}):
        with pytest.raises(ValueError, match="invalid webhook secret"):
            verify_webhook(secret, headers, BODY, now=1010)
