"""Issues and checks events tickets. Pure.

A ticket lets a browser, whose EventSource sends no Authorization header, follow one job for a
minute. It is signed with the hash of the API key that requested it. Every ingest process knows
that hash, so the processes share no secret, and revoking the key revokes its tickets. A reader of
the stored hashes could sign tickets too, unless the signature also covers a secret from outside
PostgreSQL.
"""

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from uuid import UUID

_PREFIX_BYTES = 8
_FORMAT = f">16sd{_PREFIX_BYTES}s"
_SIGNATURE_BYTES = 16
_CLOCK_SKEW_S = 60.0
"""Tolerated lead of other machines' clocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketPolicy:
    """Parameters that all ingest processes share."""

    valid_s: float
    """Longest lifetime of a ticket in seconds."""
    secret: bytes = field(default=b"", repr=False)
    """Part of every signature; may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsTicket:
    job: UUID
    expires_at: float
    """Seconds since the epoch."""
    key_prefix: bytes
    """First bytes of the hash of the key that signed the ticket."""
    signed: bytes
    signature: bytes

    def is_valid(self, key_hash: bytes, policy: TicketPolicy, *, job: UUID, now: float) -> bool:
        """Return whether the ticket opens this job now.

        An expiry later than any that the policy allows marks a forged ticket.
        """
        return (
            hmac.compare_digest(self.signature, _sign(self.signed, key_hash, policy.secret))
            and self.job == job
            and now < self.expires_at <= now + policy.valid_s + _CLOCK_SKEW_S
        )


def issue_ticket(
    job: UUID, key_hash: bytes, policy: TicketPolicy, *, now: float
) -> tuple[str, float]:
    """Return a ticket and its expiry in seconds since the epoch."""
    expires_at = now + policy.valid_s
    content = struct.pack(_FORMAT, job.bytes, expires_at, key_hash[:_PREFIX_BYTES])
    signature = _sign(content, key_hash, policy.secret)
    return base64.urlsafe_b64encode(content + signature).decode().rstrip("="), expires_at


def parse_ticket(text: str) -> EventsTicket | None:
    """Decode a ticket without checking its signature; `None` when it is malformed."""
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        signed, signature = content[:-_SIGNATURE_BYTES], content[-_SIGNATURE_BYTES:]
        job, expires_at, prefix = struct.unpack(_FORMAT, signed)
    except (ValueError, struct.error):
        return None
    return EventsTicket(
        job=UUID(bytes=job),
        expires_at=expires_at,
        key_prefix=prefix,
        signed=signed,
        signature=signature,
    )


def _sign(content: bytes, key_hash: bytes, secret: bytes) -> bytes:
    key = hmac.digest(secret, key_hash, hashlib.sha256) if secret else key_hash
    return hmac.digest(key, b"events-ticket:" + content, hashlib.sha256)[:_SIGNATURE_BYTES]
