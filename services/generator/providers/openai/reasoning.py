"""Knows which models reason before they answer, and how many output tokens that takes.

Reasoning tokens are part of the output: they are billed, and they use up the answer's limit.
"""

import re
from collections import deque
from dataclasses import dataclass
from heapq import nlargest
from uuid import UUID

from services.generator.providers.accounts.account import TextAccount

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""In ascending order."""

_TOKENS = {
    "none": 0,
    "minimal": 3_000,
    "low": 4_000,
    "medium": 8_000,
    "high": 16_000,
    "xhigh": 24_000,
    "max": 32_000,
}
_UNKNOWN_EFFORT = "medium"
"""The effort of nearly all models that are sent none."""
_SEEN_ANSWERS = 50
_SEEN_FACTOR = 1.5
"""The room for reasoning, by the most tokens of the last answers."""
_MIN_JOBS = 2
"""Different jobs whose answers must have used so many tokens."""
_MAX_GROWTH = 2
"""The most that the room grows to, as a multiple of the configured one."""


@dataclass(frozen=True, slots=True)
class _ModelFamily:
    """Models that reason. `effort`: the least they have; `None`: they take no such parameter."""

    pattern: str
    reasons: bool
    effort: str | None = None


_FAMILIES = (
    _ModelFamily(r"gpt-\d[\d.]*-chat", reasons=False),
    _ModelFamily(r"(gpt-5[\d.]*|o\d+)-pro|.*deep-research", reasons=True),
    _ModelFamily(r"o1-(mini|preview)", reasons=True),
    _ModelFamily(r"gpt-5[\d.]*-codex", reasons=True, effort="low"),
    _ModelFamily(r"gpt-5\.\d", reasons=True, effort="none"),
    _ModelFamily(r"gpt-5", reasons=True, effort="minimal"),
    _ModelFamily(r"gpt-([6-9]|[1-9]\d)\b", reasons=True, effort="low"),
    _ModelFamily(r"o[1-9]\b", reasons=True, effort="low"),
    _ModelFamily(r"gpt-oss", reasons=True, effort="low"),
    _ModelFamily(r".*(deepseek-r1|deepseek-reasoner|qwq|thinking|magistral)", reasons=True),
)
"""The first that matches decides; other models do not reason."""


def find_effort(account: TextAccount) -> str | None:
    """Return the effort to send: the account's, else the least of the model; `None` for none."""
    if account.reasoning_effort is not None:
        return account.reasoning_effort
    family = _find_family(account.model)
    return family.effort if family is not None else None


def reasons(account: TextAccount) -> bool:
    """Return whether the account's model reasons, by its name or by the account's settings."""
    family = _find_family(account.model)
    return bool(
        account.reasoning_effort
        or account.reasoning_tokens
        or (family is not None and family.reasons)
    )


def reasoning_room(account: TextAccount) -> int:
    """Return the output tokens of each call that are set aside for reasoning."""
    if account.reasoning_tokens is not None:
        return account.reasoning_tokens
    if not reasons(account):
        return 0
    return _TOKENS.get(find_effort(account) or _UNKNOWN_EFFORT, _TOKENS[_UNKNOWN_EFFORT])


class ReasoningRoom:
    """The room for reasoning, which follows the reasoning tokens that the last answers report.

    It grows to at most twice the room that is configured, or expected of the model.
    """

    def __init__(self, account: TextAccount) -> None:
        self._least = reasoning_room(account)
        is_known = account.reasoning_tokens is not None or self._least > 0
        self._most = _MAX_GROWTH * (self._least if is_known else _TOKENS[_UNKNOWN_EFFORT])
        self._seen = deque[tuple[UUID, int]](maxlen=_SEEN_ANSWERS)

    def record_reasoning(self, job: UUID, tokens: int) -> None:
        """Record the reasoning tokens of an answer that was not cut at its limit."""
        self._seen.append((job, tokens))

    def limit_output(self, max_tokens: int, cuts: int) -> int:
        """Return the output limit of a call. It doubles with every cut answer to the same call."""
        seen = round(self._seen_by_two_jobs() * _SEEN_FACTOR)
        return (max_tokens + max(self._least, min(seen, self._most))) << cuts

    def _seen_by_two_jobs(self) -> int:
        """Return the most tokens that two jobs have used: one job's trouble proves nothing."""
        most: dict[UUID, int] = {}
        for job, tokens in self._seen:
            most[job] = max(tokens, most.get(job, 0))
        return min(nlargest(_MIN_JOBS, most.values())) if len(most) >= _MIN_JOBS else 0


def _find_family(model: str) -> _ModelFamily | None:
    """Find a model's family. Gateways put the vendor before the name, as in `openai/gpt-5`."""
    name = model.lower().removeprefix("ft:").rsplit("/", 1)[-1]
    return next((family for family in _FAMILIES if re.match(family.pattern, name)), None)
