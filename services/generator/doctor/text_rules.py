"""Judges the call of a text model: what is wrong, and the variable to change.

The provider's table of outcomes (`openai/outcomes.py`) classifies the answer. This module only adds
the advice.
"""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from services.generator.doctor.rules import Cause, Finding, Status, Target
from services.generator.providers.openai.error_words import is_web_page
from services.generator.providers.openai.errors import find_words, read_error
from services.generator.providers.openai.outcomes import INCOMPLETE, REFUSED, SCHEMA
from services.generator.providers.openai.requests import AnswerFormat, ServerFeatures
from services.generator.providers.outcomes.outcome import CallResult, Outcome, OutcomeKind


class Advice(NamedTuple):
    """The problem in plain words, and the variable to change."""

    problem: str
    variable: str


_ADDRESS, _KEY, _MODEL = "OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"

_ADVICE: Mapping[str, Advice] = {
    "openai-unreachable": Advice("no connection to the address", _ADDRESS),
    "openai-timeout": Advice("no whole answer in time", "OPENAI_TIMEOUT_S"),
    "openai-lost": Advice("the connection broke, or the address speaks no HTTP", _ADDRESS),
    "openai-key": Advice("the API key is refused", _KEY),
    "openai-no-credit": Advice(
        "the account has no money left, or its spending limit is reached: pay, or use the key of"
        " another account",
        _KEY,
    ),
    "openai-permission": Advice("the key may not use this model or address", _KEY),
    "openai-model": Advice("the model is not known there, or the key may not use it", _MODEL),
    "openai-no-endpoint": Advice("no server behind the address serves the model", _MODEL),
    "openai-endpoint": Advice("the address does not know this path", _ADDRESS),
    "openai-above-limit": Advice("one call is above the limit of a minute", "OPENAI_TPM"),
    "openai-output-limit": Advice("the model writes too short answers", _MODEL),
    "openai-parameter": Advice("the model refuses a parameter that every call has", _MODEL),
    "openai-throttled": Advice(
        "the key is accepted, and the provider limits calls now: jobs will wait", "OPENAI_RPM"
    ),
    "openai-server-error": Advice("the server fails: an outage, or a wrong address", _ADDRESS),
    "openai-unreadable": Advice("the answer is not of this protocol", _ADDRESS),
    "openai-rejected": Advice("the call is refused", _MODEL),
    "openai-pending": Advice("the server accepts the call and does not answer it", _ADDRESS),
    "openai-empty": Advice("the model answers without a text", _MODEL),
    "too-large": Advice("the model is too small for the prompt of an outline", _MODEL),
    REFUSED: Advice("the model or its moderation refuses a harmless prompt", _MODEL),
    SCHEMA: Advice("the model does not answer as its schema demands", _MODEL),
}
_PARAMETERS: Mapping[str, Advice] = {
    "reasoning": Advice("the effort of reasoning is refused", "OPENAI_REASONING_EFFORT"),
    "effort": Advice("the effort of reasoning is refused", "OPENAI_REASONING_EFFORT"),
    "api-version": Advice("the version of the API is refused", "OPENAI_API_VERSION"),
    "api version": Advice("the version of the API is refused", "OPENAI_API_VERSION"),
    "schema": Advice("the strict schema of the answer is refused", _MODEL),
    "response_format": Advice("the strict schema of the answer is refused", _MODEL),
    "text.format": Advice("the strict schema of the answer is refused", _MODEL),
    "store": Advice("the parameter store is refused", "OPENAI_STORE"),
}
"""Advice about a refused parameter, by a word of the refusal."""

_CAUSES: Mapping[OutcomeKind, Cause] = {
    OutcomeKind.OUTAGE: Cause.OUTAGE,
    OutcomeKind.THROTTLED: Cause.OUTAGE,
    OutcomeKind.ACCOUNT_FAULT: Cause.ACCOUNT,
}
"""Other kinds are faults of the set-up, because the call itself is harmless."""


def judge_answer(
    target: Target, result: CallResult, outcome: Outcome, *, base_url: str | None
) -> Finding:
    """Judge the classified answer of the last call. A cut answer proves that all was accepted."""
    if outcome.kind is OutcomeKind.ANSWER or outcome.code == INCOMPLETE:
        return target.finding(Status.OK, "the provider accepts the key, the model and the schema")
    advice = _find_advice(result, outcome)
    problem = advice.problem
    if outcome.code == "openai-endpoint" and not _has_version(base_url):
        problem += "; most addresses end in /v1"
    status = f"{result.status} " if result.status else ""
    return target.finding(
        _find_status(outcome.kind),
        problem,
        variable=advice.variable,
        cause=_CAUSES.get(outcome.kind, Cause.SETUP),
        words=status + find_words(result) if not is_web_page(result.body) else str(result.body),
    )


def judge_features(
    target: Target, expected: ServerFeatures, accepted: ServerFeatures
) -> list[Finding]:
    """Return a warning for each feature that the server refused and that calls go without."""
    findings = []
    if accepted.answer_format is not expected.answer_format:
        findings.append(
            target.finding(
                Status.WARNING,
                "the strict schema of the answer is refused; calls use"
                f" {_describe_format(accepted.answer_format)}, and more answers may be unusable",
                variable=_MODEL,
                cause=Cause.SETUP,
            )
        )
    if accepted.effort != expected.effort:
        findings.append(
            target.finding(
                Status.WARNING,
                f"the effort of reasoning {expected.effort} is refused; calls use"
                f" {accepted.effort or 'the default of the model'}",
                variable="OPENAI_REASONING_EFFORT",
                cause=Cause.SETUP,
            )
        )
    return findings


def _find_advice(result: CallResult, outcome: Outcome) -> Advice:
    if is_web_page(result.body):
        return Advice("the address answers with a web page, not as an API", _ADDRESS)
    if outcome.code in ("openai-parameter", "openai-endpoint", "openai-rejected"):
        error = read_error(result)
        told = f"{error.param} {error.text}".lower() if error is not None else ""
        named = next((advice for word, advice in _PARAMETERS.items() if word in told), None)
        if named is not None:
            return named
    return _ADVICE.get(outcome.code, Advice(outcome.row, _MODEL))


def _find_status(kind: OutcomeKind) -> Status:
    is_harmless = kind in (OutcomeKind.THROTTLED, OutcomeKind.ANSWER_FAULT)
    return Status.WARNING if is_harmless else Status.FAILED


def _has_version(base_url: str | None) -> bool:
    return base_url is None or urlsplit(base_url).path.rstrip("/").endswith("/v1")


def _describe_format(answer_format: AnswerFormat) -> str:
    return "JSON mode" if answer_format is AnswerFormat.JSON_MODE else "instructions alone"
