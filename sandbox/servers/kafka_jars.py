"""Fetches Kafka's jars once per user and verifies their pinned SHA-256 at every start."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from shared.domain.errors import Unavailable

VERSION = "4.4.0"
_PINS = Path(__file__).with_name("kafka-jars.sha256")
_KAFKA = f"org.apache.kafka:kafka_2.13:{VERSION}"
# Resolved separately, and only its own jar is used: together it would downgrade kafka-clients.
_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"
_UNFINISHED = "fetching-"


def verified_class_path(home: Path, report: Callable[[str], None]) -> list[Path]:
    """Return the verified jars and fetch missing ones.

    They are kept in the user's cache, or in `home` when the cache is not writable.
    """
    text = _PINS.read_text(encoding="ascii")
    pins = parse_pins(text)
    name = f"kafka-{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blogstream"
    for cache in (shared, home):
        if has_all_jars(cache / name, pins):  # 44 MB, 50 ms
            return sorted(cache / name / jar for jar in pins)
    cache = shared if _is_writable(shared) else home
    with _locked(cache):
        # another process may have fetched them while this one waited for the lock
        if not has_all_jars(cache / name, pins):
            report(f"fetching Kafka {VERSION} (43 MB, once)")
            _fetch(cache, cache / name, pins)
    return sorted(cache / name / jar for jar in pins)


def parse_pins(pins: str) -> dict[str, str]:
    """Return the SHA-256 by file name."""
    return {name: digest for digest, name in (line.split() for line in pins.splitlines())}


def has_all_jars(folder: Path, pins: Mapping[str, str]) -> bool:
    """Return whether the folder has every jar with its pinned digest."""
    return all(_digest(folder / name) == digest for name, digest in pins.items())


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(cache: Path, folder: Path, pins: Mapping[str, str]) -> None:
    """Fetch into a temporary folder and rename it once every jar is verified."""
    for unfinished in cache.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=_UNFINISHED) as temporary:
        found = _download(Path(temporary))
        staged = Path(temporary) / "jars"
        staged.mkdir()
        for name, digest in pins.items():
            if name not in found:
                raise Unavailable(f"Kafka's jar {name} was not fetched: not started")
            shutil.copyfile(found[name], staged / name)
            if _digest(staged / name) != digest:
                raise Unavailable(
                    f"Kafka's jar {name} does not match its pinned SHA-256: not started"
                )
        if folder.exists():  # damaged; a running server keeps its open files
            folder.rename(Path(temporary) / "damaged")
        staged.rename(folder)


def _download(temporary: Path) -> dict[str, Path]:
    """Download every jar; return them by name. ~/.m2 is not used: partial downloads would stay."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")  # its folder finder warns where there is no desktop session
        from jgo.env import EnvironmentBuilder  # noqa: PLC0415 - slow to import, and needed once
        from jgo.maven import MavenContext  # noqa: PLC0415

        builder = EnvironmentBuilder(
            context=MavenContext(repo_cache=temporary / "repository"),
            cache_dir=temporary / "environments",
        )
        try:
            kafka, logging = map(builder.from_endpoint, (_KAFKA, _LOGGING))
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise Unavailable(
                f"could not fetch Kafka {VERSION}; is the network there? ({reason})"
            ) from error
    jars = {jar.name: jar for jar in kafka.path.glob("*/*.jar")}
    return jars | {jar.name: jar for jar in logging.path.glob("*/log4j-slf4j-impl*.jar")}
