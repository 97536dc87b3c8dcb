"""The log of a run: every output line of every process, prefixed with the name of the process."""

from collections.abc import Callable
from pathlib import Path
from typing import Self, TextIO

import orjson

_MAX_BYTES = 64 * 1024 * 1024


def format_log_line(line: str) -> str:
    """Format `name | {json}` as `name | time event key=value`. Other lines stay unchanged."""
    name, _, text = line.partition(" | ")
    try:
        entry = orjson.loads(text)
        event, at = entry.pop("event"), entry.pop("time")[11:19]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return line
    level = entry.pop("level", "info")
    fields = " ".join(
        f"{key}={value}" for key, value in entry.items() if key not in ("service", "logger")
    )
    prefix = "" if level == "info" else f"{level.upper()} "
    return f"{name} | {at} {prefix}{event}{' ' + fields if fields else ''}"


class RunLog:
    """Appends `name | line` to a file and to `console`, if given. Rotates the file at 64 MiB."""

    def __init__(self, path: Path, console: Callable[[str], None] | None = None) -> None:
        self._path = path
        self._console = console
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, name: str, line: str) -> None:
        text = f"{name} | {line}"
        if self._file is not None:
            self._rotate_when_large(self._file)
            self._file.write(text + "\n")
        if self._console is not None:
            self._console(text)

    def _rotate_when_large(self, file: TextIO) -> None:
        if file.tell() > _MAX_BYTES:
            file.close()
            self._path.replace(self._path.with_suffix(".log.1"))
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
