"""Defines findings, and judges the parts that all providers share."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from services.generator.providers.openai.error_words import is_web_page
from services.generator.providers.outcomes.delays import parse_number

_MAX_WORDS = 240
_TITLE = re.compile(r"<title[^>]*>([^<]{0,200})", re.IGNORECASE)


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Cause(StrEnum):
    """Who can correct a failure. An outage passes by itself."""

    SETUP = "set-up"
    ACCOUNT = "account"
    OUTAGE = "outage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check. `words` are the provider's own, cut."""

    name: str
    status: Status
    detail: str
    variable: str | None = None
    """The variable to change."""
    cause: Cause | None = None
    url: str | None = None
    model: str | None = None
    words: str | None = None

    @property
    def blocks_start(self) -> bool:
        """Return whether no job can succeed with this account until a person acts."""
        return self.status is Status.FAILED and self.cause is not Cause.OUTAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The call of a check, for its finding. `url` begins with the method."""

    name: str
    url: str
    model: str

    def finding(
        self,
        status: Status,
        detail: str,
        *,
        variable: str | None = None,
        cause: Cause | None = None,
        words: str = "",
    ) -> Finding:
        """Build a finding about this call."""
        return Finding(
            name=self.name,
            status=status,
            detail=detail,
            variable=variable,
            cause=cause,
            url=self.url,
            model=self.model,
            words=cut_words(words) or None,
        )


def cut_words(text: str) -> str:
    """Return a text on one line, cut to 240 characters. A web page is reduced to its title."""
    if is_web_page(text):
        title = _TITLE.search(text)
        text = f"web page: {title[1]}" if title else "web page"
    line = " ".join(text.split())
    return line if len(line) <= _MAX_WORDS else f"{line[: _MAX_WORDS - 1]}…"


def judge_limits(
    target: Target, headers: Mapping[str, str], configured: Mapping[str, tuple[str, float]]
) -> list[Finding]:
    """Return a warning for each configured limit above the one that the headers report.

    `configured` holds the variable and its value by the resource of the header's name. Some servers
    report 0 or -1 for no limit.
    """
    findings = []
    for resource, (variable, value) in configured.items():
        reported = parse_number(headers, f"x-ratelimit-limit-{resource}")
        if reported is None or not 0 < reported < value:
            continue
        findings.append(
            Finding(
                name=f"{target.name} limits",
                status=Status.WARNING,
                detail=f"{variable} is {value:g}, and the provider reports a limit of"
                f" {reported:g} {resource} a minute: set {variable}={reported:g}",
                variable=variable,
                cause=Cause.SETUP,
                model=target.model,
            )
        )
    return findings


def format_finding(finding: Finding) -> str:
    """Format a finding as one line."""
    line = f"{finding.status:<7}  {finding.name}: {finding.detail}"
    if finding.url is not None:
        model = f", model {finding.model}" if finding.model else ""
        line += f" ({finding.url}{model})"
    if finding.words:
        line += f' "{finding.words}"'
    is_named = finding.variable is None or finding.variable in finding.detail
    if finding.status is not Status.OK and not is_named:
        line += f" → change {finding.variable}"
    return line
