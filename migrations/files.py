"""Parses migration files: `NNNN_name.sql` with `-- migrate:up` and `-- migrate:down` sections."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
_FILE = re.compile(r"^(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql$")
_SECTION = re.compile(r"^-- migrate:(?P<kind>up|down)(?P<options>[^\n]*)$", re.MULTILINE)
_MESSAGE = re.compile(r"^-- migrate:message (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    version: str
    name: str
    up: str
    down: str
    transactional: bool
    """`False` where a statement cannot run in a transaction (CREATE INDEX CONCURRENTLY). Each
    statement is then repeatable.
    """
    message: str | None
    """Printed after it was applied."""
    checksum: str


def load_migrations(folder: Path = FOLDER) -> list[Migration]:
    """Load all migrations in order. ValueError for a bad name or section, or a repeated number."""
    found = [_parse(path) for path in sorted(folder.glob("*.sql"))]
    versions = [migration.version for migration in found]
    if len(set(versions)) != len(versions):
        raise ValueError(f"two migrations share a number: {versions}")
    return found


def _parse(path: Path) -> Migration:
    name = _FILE.match(path.name)
    text = path.read_text(encoding="utf-8")
    sections = list(_SECTION.finditer(text))
    if name is None or [section["kind"] for section in sections] != ["up", "down"]:
        raise ValueError(
            f"{path.name}: want NNNN_name.sql with one '-- migrate:up', then one '-- migrate:down'"
        )
    up, down = sections
    message = _MESSAGE.search(text)
    return Migration(
        version=name["version"],
        name=name["name"],
        up=text[up.end() : down.start()].strip(),
        down=text[down.end() :].strip(),
        transactional="transaction=false" not in up["options"],
        message=message["text"] if message else None,
        checksum=hashlib.sha256(text.encode()).hexdigest(),
    )


def split_statements(sql: str) -> list[str]:
    """The statements of a section that runs without a transaction. It has no quoted semicolons."""
    without_comments = "\n".join(
        line for line in sql.splitlines() if not line.lstrip().startswith("--")
    )
    return [statement.strip() for statement in without_comments.split(";") if statement.strip()]
