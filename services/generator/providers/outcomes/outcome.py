"""Classifies the outcome of a provider call: who is at fault, and how the job goes on.

Each vendor has its tables of rows (`openai/outcomes.py`, `replicate/outcomes.py`). The first row
that matches decides. `docs/providers.md` and the tests are made from the tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.generator.providers.outcomes.delays import parse_delay
from shared.domain.errors import Permanent, Transient


class OutcomeKind(StrEnum):
    """Whose fault it is. `EFFECTS` states what follows for the job."""

    ANSWER = "answer"
    REQUEST_FAULT = "request's fault"
    ANSWER_FAULT = "answer's fault"
    OUTAGE = "passing"
    THROTTLED = "throttled"
    ACCOUNT_FAULT = "account's fault"
    SETUP_FAULT = "set-up fault"
    UNEXPLAINED = "unexplained"


EFFECTS: Mapping[OutcomeKind, str] = {
    OutcomeKind.ANSWER: "The answer is saved.",
    OutcomeKind.REQUEST_FAULT: "The job is FAILED at once, with this code.",
    OutcomeKind.ANSWER_FAULT: "The call is repeated, at most three paid times; then FAILED.",
    OutcomeKind.OUTAGE: "The job waits with growing pauses. It costs no attempt.",
    OutcomeKind.THROTTLED: "The job waits as long as told; the pace is lowered. No attempt.",
    OutcomeKind.ACCOUNT_FAULT: "Jobs that need the account wait until it serves. No attempt.",
    OutcomeKind.SETUP_FAULT: (
        "Jobs wait until the set-up is corrected. No attempt. If three other jobs' calls of this"
        " kind have been served since, it is this request's fault."
    ),
    OutcomeKind.UNEXPLAINED: (
        "The request's fault once another job's call of this kind has been served since; a set-up"
        " fault if a second job gets the same. The job waits until then. No attempt."
    ),
}


class TransportFailure(StrEnum):
    """The failure of a call that returned no whole answer."""

    UNREACHABLE = "unreachable"
    """No connection was made: the call cannot be billed."""
    TIMEOUT = "timeout"
    """The total deadline passed."""
    LOST = "lost"
    """The connection broke before the answer was complete."""


NEVER_CONNECTED = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"}
"""The exceptions of the HTTP clients that mean UNREACHABLE, by name: the SDKs choose the client."""
GATEWAY_TIMEOUTS = (504, 522, 524, 598, 599)
"""Statuses of a gateway: the server behind it may have done the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """The raw result of a call. `status` is 0 if the call returned no whole answer."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names are in lower case."""
    body: Any = None
    """The parsed JSON, or the text of a body that is no JSON."""
    failure: TransportFailure | None = None
    detail: str = ""
    """The exception of a failure, for the log."""
    url: str = ""
    """The address that answered, if known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """One known form of outcome. `code` becomes the job's error code."""

    name: str
    """The form in a reader's words; unique within its table."""
    matches: Callable[[CallResult], bool]
    kind: OutcomeKind
    code: str
    in_doubt: bool = False
    """The call may have been carried out and billed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The classified outcome of one call."""

    kind: OutcomeKind
    code: str
    reason: str
    row: str = ""
    delay: float | None = None
    """Seconds to wait at least before the next call, if known."""
    in_doubt: bool = False
    isolated: bool = False
    """Other jobs' calls of this kind were served since this call began."""
    url: str = ""
    """The address that answered, if known."""

    def to_error(self) -> Transient | Permanent:
        """Build the error that ends the call. Requires another kind than ANSWER."""
        if self.kind is OutcomeKind.REQUEST_FAULT:
            return Permanent(self.reason, code=self.code)
        return Transient(
            self.reason,
            code=self.code,
            delay=self.delay,
            in_doubt=self.in_doubt,
            blameless=self.kind is not OutcomeKind.ANSWER_FAULT,
            isolated=self.isolated,
        )


def classify_result(
    table: Sequence[OutcomeRow], result: CallResult, *, words: str, now: datetime
) -> Outcome:
    """Classify a result by the first row that matches; the last row must match everything.

    `words` are the provider's own, for people. `now` resolves delays that are given as a date.
    """
    row = next(row for row in table if row.matches(result))
    return Outcome(
        kind=row.kind,
        code=row.code,
        reason=f"{row.name}: {words}" if words else row.name,
        row=row.name,
        delay=parse_delay(
            result.headers, result.body, now, throttled=row.kind is OutcomeKind.THROTTLED
        ),
        in_doubt=row.in_doubt,
        url=result.url,
    )


def as_request_fault(outcome: Outcome) -> Outcome:
    """Blame the request for an unexplained outcome, because another job's call was served since."""
    return replace(outcome, kind=OutcomeKind.REQUEST_FAULT)
