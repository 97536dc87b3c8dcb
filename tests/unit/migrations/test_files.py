"""Migrations only ever add, so that the release before goes on beside the one that migrates."""

import re

import pytest

from migrations.files import Migration, load_migrations

FIRST = "0001"
_COMMENT = re.compile(r"--[^\n]*")
_TAKES_AWAY = re.compile(
    r"\b(DROP (TABLE|COLUMN|VIEW)|RENAME|TRUNCATE|ALTER COLUMN|SET NOT NULL)\b", re.IGNORECASE
)
_COLUMN = re.compile(r"ADD COLUMN(?! IF).*?(?=ADD COLUMN|;|$)", re.IGNORECASE | re.DOTALL)


@pytest.mark.parametrize(
    "migration", [one for one in load_migrations() if one.version != FIRST], ids=lambda one: one.version
)
def test_a_migration_takes_nothing_away(migration: Migration) -> None:
    sql = _COMMENT.sub("", migration.up)
    assert not _TAKES_AWAY.search(sql)
    for column in _COLUMN.findall(sql):
        assert "NOT NULL" not in column.upper() or "DEFAULT" in column.upper(), (
            "who inserts without it must go on"
        )


@pytest.mark.parametrize("migration", load_migrations(), ids=lambda one: one.version)
def test_a_migration_can_be_reverted(migration: Migration) -> None:
    assert migration.down
