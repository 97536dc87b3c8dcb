"""Migrations only add, so that the previous release runs beside the one that migrates."""

import re

import pytest

from migrations.files import Migration, load_migrations

FIRST = "0001"
_COMMENT = re.compile(r"--[^\n]*")
_REMOVES = re.compile(
    r"\b(DROP (TABLE|COLUMN|VIEW)|RENAME|TRUNCATE|ALTER COLUMN|SET NOT NULL)\b", re.IGNORECASE
)
_COLUMN = re.compile(r"ADD COLUMN(?! IF).*?(?=ADD COLUMN|;|$)", re.IGNORECASE | re.DOTALL)


@pytest.mark.parametrize(
    "migration",
    [one for one in load_migrations() if one.version != FIRST],
    ids=lambda one: one.version,
)
def test_migration_removes_nothing(migration: Migration) -> None:
    sql = _COMMENT.sub("", migration.up)
    assert not _REMOVES.search(sql)
    for column in _COLUMN.findall(sql):
        assert "NOT NULL" not in column.upper() or "DEFAULT" in column.upper(), (
            "inserts of the previous release lack the column"
        )


@pytest.mark.parametrize("migration", load_migrations(), ids=lambda one: one.version)
def test_migration_can_be_reverted(migration: Migration) -> None:
    assert migration.down
