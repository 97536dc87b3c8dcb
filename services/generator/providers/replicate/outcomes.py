"""Lists every known outcome of Replicate's calls, and whose fault it is.

There is one table for each kind of call, and one for a prediction that has ended. The first row
that matches decides. A call is named in each row's code, which becomes the job's error code.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from services.generator.providers.outcomes.outcome import (
    GATEWAY_TIMEOUTS,
    CallResult,
    Outcome,
    OutcomeKind,
    OutcomeRow,
    TransportFailure,
    classify_result,
)
from services.generator.providers.replicate.image_files import (
    MAX_IMAGE_BYTES,
    find_format,
    is_whole_image,
)
from services.generator.providers.replicate.prediction import (
    error_text,
    parse_id,
    parse_view,
    status_of,
)

GONE_FILE_CODE = "replicate-file-gone"
"""The code of a file whose address has expired: a new address may be read."""

_MAX_WORDS = 300

_FLAGGED = re.compile(
    r"nsfw|flagged|\bE005\b|sensitive (?:content|material|words?)|moderat(?:ion|ed)|safety"
    r"|unsafe content|content[ _-]?(?:polic|filter|violat)|usage polic|polic\w+ violat"
    r"|violat\w* \w*\s*polic|prohibited|inappropriate|explicit content|copyright"
    r"|different (?:prompt|inputs?)",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"too long|prompt (?:length|is over|exceeds)|at most \d+ (?:char|token)"
    r"|max(?:imum)? (?:prompt |context |input )?(?:length|characters|tokens)",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"interrupted|please retry|retry(?:ing)? (?:later|your|the)|try again(?: later|\W*$)"
    r"|out of memory|\boom\b|\bcuda|cudnn|\bnccl|\bgpu|director|time[ds]?[ -]?out|deadline"
    r"|unexpected error|unknown error|internal (?:server )?error|server error|unavailable"
    r"|overload|high demand|capacity|too many requests|rate.?limit|throttl|temporar"
    r"|connection|network|socket|\bE\d{4}\b|\bE00[1-4]\b|\b50[0-4]\b|bad gateway"
    r"|health ?check|queue|fail\w* to (?:start|upload|download|load)|setup|shut ?down"
    r"|killed|sigkill|sigterm|preempt|no space left|cancel|quota|api[ _-]?key",
    re.IGNORECASE,
)
_INPUT = re.compile(
    r"invalid|validation|unprocessable|not (?:a )?valid|unsupported|not (?:supported|allowed)"
    r"|\bE006\b|must be|should be|expected|missing|required|valueerror|\binputs?\b",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"(?:model|version)\b.*(?:not (?:exist|found|permitted)|does(?: not|n't)|invalid|disabled"
    r"|deprecated|archived)|invalid (?:model|version)",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"insufficient (?:credit|balance|fund|quota)|spend(?:ing)? limit|out of credit"
    r"|billing (?:hard )?limit|payment required",
    re.IGNORECASE,
)

Matches = Callable[[CallResult], bool]


def result_words(result: CallResult) -> str:
    """Return the provider's own words about a result, at most 300 characters."""
    if result.failure is not None:
        return result.detail[:_MAX_WORDS]
    view = parse_view(result.body) if result.status < 300 else None
    words = error_text(view) if view is not None else _body_words(result.body)
    return " ".join(words[: 2 * _MAX_WORDS].split())[:_MAX_WORDS]


def _body_words(body: Any) -> str:
    if isinstance(body, bytes | None):
        return ""
    if not isinstance(body, dict):
        return body if isinstance(body, str) else repr(body)
    error = body.get("error")
    if isinstance(error, dict):
        return _body_words(error)
    named = [body.get(name) for name in ("title", "detail", "message", "error")]
    return ": ".join(
        part if isinstance(part, str) else repr(part) for part in named if part
    ) or repr(body)


def _status(*statuses: int) -> Matches:
    return lambda result: result.failure is None and result.status in statuses


def _status_and_words(words: re.Pattern[str], *statuses: int) -> Matches:
    return lambda result: _status(*statuses)(result) and bool(words.search(result_words(result)))


def _is_served(result: CallResult) -> bool:
    return result.failure is None and 200 <= result.status < 300


def _is_server_error(result: CallResult) -> bool:
    return result.failure is None and result.status >= 500


def _failed_with(*failures: TransportFailure) -> Matches:
    return lambda result: result.failure in failures


def _ended_as(status: str, words: re.Pattern[str] | None = None) -> Matches:
    """Match a prediction that ended so, with an error that matches `words`."""

    def matches(result: CallResult) -> bool:
        view = parse_view(result.body) or {}
        return status_of(view) == status and (words is None or bool(words.search(error_text(view))))

    return matches


def _has_output(result: CallResult) -> bool:
    view = parse_view(result.body) or {}
    return status_of(view) == "succeeded" and not (
        view.get("data_removed") and not view.get("output")
    )


def _content(result: CallResult) -> bytes:
    return result.body if isinstance(result.body, bytes) else b""


def _always(result: CallResult) -> bool:
    return True


def _row(
    name: str, matches: Matches, kind: OutcomeKind, code: str, *, in_doubt: bool = False
) -> OutcomeRow:
    return OutcomeRow(
        name=name, matches=matches, kind=kind, code=f"replicate-{code}", in_doubt=in_doubt
    )


_UNREACHABLE = TransportFailure.UNREACHABLE
_TIMEOUT, _LOST = TransportFailure.TIMEOUT, TransportFailure.LOST
_REFUSALS = (400, 403, 422, 451)
"""The statuses that may be about one request."""

CREATION_OUTCOMES: tuple[OutcomeRow, ...] = (
    _row(
        "creation served",
        lambda result: _is_served(result) and parse_id(result.body) is not None,
        OutcomeKind.ANSWER,
        "created",
    ),
    _row("creation: no connection", _failed_with(_UNREACHABLE), OutcomeKind.OUTAGE, "unreachable"),
    _row(
        "creation: no answer in time",
        _failed_with(_TIMEOUT),
        OutcomeKind.OUTAGE,
        "timeout",
        in_doubt=True,
    ),
    _row(
        "creation: connection lost", _failed_with(_LOST), OutcomeKind.OUTAGE, "lost", in_doubt=True
    ),
    _row(
        "creation: answer without an id",
        _is_served,
        OutcomeKind.OUTAGE,
        "unreadable",
        in_doubt=True,
    ),
    _row("creation: token refused", _status(401), OutcomeKind.ACCOUNT_FAULT, "401"),
    _row("creation: no credit left", _status(402), OutcomeKind.ACCOUNT_FAULT, "402"),
    _row(
        "creation: throttled, no credit left",
        _status_and_words(_NO_MONEY, 429),
        OutcomeKind.ACCOUNT_FAULT,
        "no-credit",
    ),
    _row("creation: throttled", _status(429), OutcomeKind.THROTTLED, "429"),
    _row(
        "creation: flagged by moderation",
        _status_and_words(_FLAGGED, *_REFUSALS),
        OutcomeKind.REQUEST_FAULT,
        "flagged",
    ),
    _row("creation: account rejected", _status(403), OutcomeKind.ACCOUNT_FAULT, "403"),
    _row("creation: no such model", _status(404, 410), OutcomeKind.SETUP_FAULT, "404"),
    _row("creation: method refused", _status(405), OutcomeKind.SETUP_FAULT, "405"),
    _row("creation: request too large", _status(413, 414), OutcomeKind.REQUEST_FAULT, "too-large"),
    _row(
        "creation: model or version refused",
        _status_and_words(_MODEL, 400, 422),
        OutcomeKind.SETUP_FAULT,
        "model",
    ),
    _row(
        "creation: prompt too long",
        _status_and_words(_TOO_LONG, 400, 422),
        OutcomeKind.REQUEST_FAULT,
        "too-long",
    ),
    _row(
        "creation: refused while overloaded",
        _status_and_words(
            re.compile(r"high demand|unavailable|overload|try again later", re.IGNORECASE),
            400,
            422,
        ),
        OutcomeKind.OUTAGE,
        "overloaded",
    ),
    _row("creation: input refused", _status(400, 422), OutcomeKind.UNEXPLAINED, "input"),
    _row(
        "creation: conflict or early time-out", _status(408, 409, 425), OutcomeKind.OUTAGE, "busy"
    ),
    _row(
        "creation: gateway time-out",
        _status(*GATEWAY_TIMEOUTS),
        OutcomeKind.OUTAGE,
        "gateway-timeout",
        in_doubt=True,
    ),
    _row("creation: server error", _is_server_error, OutcomeKind.OUTAGE, "5xx"),
    _row(
        "creation: redirected",
        lambda result: 300 <= result.status < 400,
        OutcomeKind.SETUP_FAULT,
        "redirect",
    ),
    _row("creation: any other answer", _always, OutcomeKind.UNEXPLAINED, "refused"),
)
"""POST of a prediction. An answer that is lost leaves it in doubt whether one was created."""

READ_OUTCOMES: tuple[OutcomeRow, ...] = (
    _row(
        "read served",
        lambda result: _is_served(result) and parse_view(result.body) is not None,
        OutcomeKind.ANSWER,
        "read",
    ),
    _row(
        "read: no answer",
        _failed_with(_UNREACHABLE, _TIMEOUT, _LOST),
        OutcomeKind.OUTAGE,
        "read-lost",
    ),
    _row("read: throttled", _status(429), OutcomeKind.THROTTLED, "read-429"),
    _row("read: prediction gone", _status(404, 410), OutcomeKind.ANSWER_FAULT, "gone"),
    _row("read: token refused", _status(401), OutcomeKind.ACCOUNT_FAULT, "read-401"),
    _row("read: account rejected", _status(402, 403), OutcomeKind.ACCOUNT_FAULT, "read-403"),
    _row("read: server error", _is_server_error, OutcomeKind.OUTAGE, "read-5xx"),
    _row("read: any other answer", _always, OutcomeKind.OUTAGE, "read-unreadable"),
)
"""GET of a prediction: costs nothing, and is repeated until the prediction's deadline."""

PREDICTION_OUTCOMES: tuple[OutcomeRow, ...] = (
    _row("prediction succeeded", _has_output, OutcomeKind.ANSWER, "succeeded"),
    _row(
        "prediction succeeded, output deleted",
        _ended_as("succeeded"),
        OutcomeKind.ANSWER_FAULT,
        "gone",
    ),
    _row(
        "prediction failed: flagged",
        _ended_as("failed", _FLAGGED),
        OutcomeKind.REQUEST_FAULT,
        "flagged",
    ),
    _row(
        "prediction failed: prompt too long",
        _ended_as("failed", _TOO_LONG),
        OutcomeKind.REQUEST_FAULT,
        "too-long",
    ),
    _row(
        "prediction failed: passing",
        _ended_as("failed", _PASSING),
        OutcomeKind.OUTAGE,
        "interrupted",
    ),
    _row(
        "prediction failed: model or version refused",
        _ended_as("failed", _MODEL),
        OutcomeKind.SETUP_FAULT,
        "model",
    ),
    _row(
        "prediction failed: input refused",
        _ended_as("failed", _INPUT),
        OutcomeKind.UNEXPLAINED,
        "input",
    ),
    _row(
        "prediction failed: unknown error",
        _ended_as("failed"),
        OutcomeKind.ANSWER_FAULT,
        "failed",
    ),
    _row("prediction aborted", _ended_as("aborted"), OutcomeKind.OUTAGE, "aborted"),
    _row("prediction canceled", _ended_as("canceled"), OutcomeKind.OUTAGE, "canceled"),
    _row("prediction past its deadline", _always, OutcomeKind.OUTAGE, "overdue"),
)
"""A prediction that has ended, or that is past its deadline. Its body is the prediction."""

FILE_OUTCOMES: tuple[OutcomeRow, ...] = (
    _row(
        "file served",
        lambda result: (
            _is_served(result)
            and len(_content(result)) <= MAX_IMAGE_BYTES
            and is_whole_image(_content(result))
        ),
        OutcomeKind.ANSWER,
        "file",
    ),
    _row(
        "file: no answer",
        _failed_with(_UNREACHABLE, _TIMEOUT, _LOST),
        OutcomeKind.OUTAGE,
        "file-lost",
    ),
    _row(
        "file: address expired",
        _status(401, 403, 404, 410),
        OutcomeKind.ANSWER_FAULT,
        "file-gone",
    ),
    _row("file: throttled", _status(429), OutcomeKind.THROTTLED, "file-429"),
    _row("file: server error", _is_server_error, OutcomeKind.OUTAGE, "file-5xx"),
    _row(
        "file: over 16 MiB",
        lambda result: _is_served(result) and len(_content(result)) > MAX_IMAGE_BYTES,
        OutcomeKind.ANSWER_FAULT,
        "file-too-large",
    ),
    _row(
        "file: empty",
        lambda result: _is_served(result) and not _content(result),
        OutcomeKind.ANSWER_FAULT,
        "file-empty",
    ),
    _row(
        "file: cut off",
        lambda result: _is_served(result) and find_format(_content(result)) is not None,
        OutcomeKind.ANSWER_FAULT,
        "file-cut",
    ),
    _row("file: no image", _is_served, OutcomeKind.ANSWER_FAULT, "file-no-image"),
    _row("file: any other answer", _always, OutcomeKind.ANSWER_FAULT, "file-refused"),
)
"""GET of the image: the body is the file's content."""

NO_IMAGE = Outcome(
    kind=OutcomeKind.ANSWER_FAULT,
    code="replicate-no-output",
    reason="prediction succeeded without an image",
    row="prediction succeeded without an image",
)


def classify(table: Sequence[OutcomeRow], result: CallResult, now: datetime) -> Outcome:
    """Classify a result by one of the tables, with the provider's own words."""
    words = result_words(result)
    if result.status >= 300:
        words = f"{result.status} {words}".rstrip()
    return classify_result(table, result, words=words, now=now)
