"""The run's log: every line of every process, with its process's name before it, in one file and on the console."""

from collections.abc import Callable
from pathlib import Path
from typing import Self, TextIO

import orjson

_LARGEST = 64 * 1024 * 1024


def readable(line: str) -> str:
    """A log line for a person: `name | time event key=value`, from `name | {json}`; other lines as they are."""
    name, _, text = line.partition(" | ")
    try:
        said = orjson.loads(text)
        event, at = said.pop("event"), said.pop("time")[11:19]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return line
    level = said.pop("level", "info")
    rest = " ".join(
        f"{key}={value}" for key, value in said.items() if key not in ("service", "logger")
    )
    return f"{name} | {at} {'' if level == 'info' else level.upper() + ' '}{event}{' ' + rest if rest else ''}"


class RunLog:
    """Appends `name | line` to logs/app.log; `console` (or None) hears every line too. Starts anew past 64 MiB."""

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
        if file.tell() > _LARGEST:
            file.close()
            self._path.replace(self._path.with_suffix(".log.1"))
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
