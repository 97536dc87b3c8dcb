"""Events tickets: lifetime, forged expiry, and the additional secret."""

from uuid import UUID

from services.ingest.auth.rules import TicketPolicy, issue_ticket, parse_ticket

JOB = UUID("019392d0-0000-7000-8000-000000000001")


def test_ticket_expires_and_cannot_outlive_the_policy() -> None:
    key, policy = bytes(range(32)), TicketPolicy(valid_s=60)

    def is_valid(text: str, *, now: float, policy: TicketPolicy = policy) -> bool:
        ticket = parse_ticket(text)
        return ticket is not None and ticket.is_valid(key, policy, job=JOB, now=now)

    text, expires_at = issue_ticket(JOB, key, policy, now=1_000)
    assert (expires_at, [is_valid(text, now=at) for at in (940, 1_000, 1_059, 1_060)]) == (
        1_060,
        [True, True, True, False],
    )
    forged, _ = issue_ticket(JOB, key, TicketPolicy(valid_s=1e9), now=1_000)
    assert not is_valid(forged, now=1_000)
    endless, _ = issue_ticket(JOB, key, TicketPolicy(valid_s=float("inf")), now=1_000)
    assert not is_valid(endless, now=1_000)


def test_key_hash_alone_signs_no_ticket_when_a_secret_is_set() -> None:
    key, policy = bytes(range(32)), TicketPolicy(valid_s=60, secret=b"known to ingest alone")
    for signer, valid in ((policy, True), (TicketPolicy(valid_s=60), False)):
        ticket = parse_ticket(issue_ticket(JOB, key, signer, now=1_000)[0])
        assert ticket is not None
        assert ticket.is_valid(key, policy, job=JOB, now=1_000) == valid
