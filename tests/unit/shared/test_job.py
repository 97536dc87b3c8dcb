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


def status_updates() -> dict[str, str]:
    """The services' statements that set the status of a job, by file and query name."""
    return {
        f"{path.stem}.{name}": statement
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
    assert reached == set(Status) - {Status.REJECTED}, "REJECTED is reserved"


def test_done_jobs_stay_done() -> None:
    assert TRANSITIONS[Status.DONE] == frozenset()
    assert Status.DONE in ENDED
    assert {Status.PENDING, Status.PROCESSING}.isdisjoint(ENDED)


def test_every_statement_writes_a_legal_transition() -> None:
    """A parameter as the new status, or as the allowed old ones, is the repository's to check.

    Only `recover` writes any status: it restores what was true before the backup.
    """
    updates = status_updates()
    assert len(updates) >= 6, "statements are missing"
    for name, statement in updates.items():
        setting, _, condition = statement.partition("WHERE")
        target = re.search(r"\bSET\s+status = (?:'([A-Z]+)'|\$\d)", setting)
        sources = re.findall(r"\bstatus = (?:'([A-Z]+)'|ANY \(\$\d)", condition)
        assert target is not None, name
        assert len(sources) == 1 or name.startswith("recovery."), name
        for source in sources:
            if source and target[1]:
                assert (Status(source), Status(target[1])) in LEGAL, name
