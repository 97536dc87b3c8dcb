"""The table of legal transitions, and the statements that write a job's status."""

import re
from itertools import product

import pytest

from sandbox.system.home import ROOT
from shared.domain.job import (
    ENDED,
    TRANSITIONS,
    IllegalTransitionError,
    Status,
    check_transition,
    sources_of,
)
from shared.runtime.postgres import load_queries

LEGAL = {(current, target) for current, targets in TRANSITIONS.items() for target in targets}
TARGET_IS_A_PARAMETER = {"end_attempt", "correct"}
"""Statements whose caller chooses the new status."""
SOURCE_IS_A_PARAMETER = {"cancel", "retry"}
"""Statements whose callers pass `CANCELLABLE` and `RETRIABLE`."""


def status_updates() -> dict[str, str]:
    """The services' statements that set the status of a job, by query name."""
    return {
        name: statement
        for path in (ROOT / "services").rglob("*.sql")
        for name, query in load_queries(path).items()
        if (statement := query[query.find("UPDATE blog_generations") :])
        and re.search(r"^UPDATE blog_generations\b.*?\bSET\s+status\s*=", statement, re.DOTALL)
    }


@pytest.mark.parametrize(("current", "target"), list(product(Status, Status)))
def test_only_the_table_allows_a_transition(current: Status, target: Status) -> None:
    if (current, target) in LEGAL:
        assert check_transition(current, target) is target
    else:
        with pytest.raises(IllegalTransitionError, match=f"{current} cannot become {target}"):
            check_transition(current, target)
    assert (current in sources_of(target)) == ((current, target) in LEGAL)


def test_every_status_has_its_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(Status)
    reached = {Status.PENDING} | {target for _, target in LEGAL}
    assert reached == set(Status)


def test_done_jobs_stay_done() -> None:
    assert TRANSITIONS[Status.DONE] == frozenset()
    assert Status.DONE in ENDED
    assert {Status.PENDING, Status.PROCESSING}.isdisjoint(ENDED)


def test_every_statement_writes_a_legal_transition() -> None:
    updates = status_updates()
    assert updates.keys() >= TARGET_IS_A_PARAMETER | SOURCE_IS_A_PARAMETER
    for name, statement in updates.items():
        setting, _, condition = statement.partition("WHERE")
        targets = re.findall(r"\bstatus = '([A-Z]+)'", setting.partition("FROM")[0])
        sources = re.findall(r"\bstatus = '([A-Z]+)'", condition)
        if name not in TARGET_IS_A_PARAMETER:
            assert len(targets) == 1, name
        if name not in SOURCE_IS_A_PARAMETER | {"correct"}:
            assert len(sources) == 1, name
        for source, target in product(sources, targets):
            assert (Status(source), Status(target)) in LEGAL, name
