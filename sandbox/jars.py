"""Kafka's jars: fetched once, each checked against its pinned SHA-256, then shared by every home on the machine."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import Unavailable

VERSION = "4.4.0"
_PINS = Path(__file__).with_name("kafka-jars.sha256")
_KAFKA = f"org.apache.kafka:kafka_2.13:{VERSION}"
# Fetched apart, and only its own jar taken: resolved together with Kafka it would downgrade kafka-clients.
_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"


def class_path(home: Path, say: Callable[[str], None]) -> list[Path]:
    """The verified jars, fetched when they are missing. `home` serves where the user's cache cannot be written."""
    cache = _cache(home)
    pins = _PINS.read_text(encoding="utf-8")
    folder = cache / f"kafka-{VERSION}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    if not folder.exists():  # the folder appears by one rename, so it is whole or absent
        with _locked(cache / "lock"):
            if not folder.exists():
                say(f"fetching Kafka {VERSION} (43 MB, once)")
                _fetch(cache, folder, _parse(pins))
    return sorted(folder.glob("*.jar"))


def _cache(home: Path) -> Path:
    chosen = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blogstream"
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError:
        chosen = home
    if not os.access(chosen, os.W_OK):
        chosen = home
    return chosen


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parse(pins: str) -> dict[str, str]:
    return {name: digest for digest, name in (line.split() for line in pins.splitlines())}


def _fetch(cache: Path, folder: Path, pins: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        found = _download(Path(temporary) / "jgo")
        staged = Path(temporary) / "jars"
        staged.mkdir()
        for name, digest in pins.items():
            if name not in found:
                raise Unavailable(f"Kafka's jar {name} was not among those fetched; remove {cache} and try again")
            shutil.copyfile(found[name], staged / name)
            if hashlib.sha256((staged / name).read_bytes()).hexdigest() != digest:
                raise Unavailable(f"Kafka's jar {name} is not the one that is pinned: not started")
        staged.rename(folder)


def _download(cache: Path) -> dict[str, Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its folder finder warns where there is no desktop session
        import jgo  # noqa: PLC0415 - slow to import, and needed once

        try:
            kafka, logging = (jgo.build(endpoint, cache_dir=cache) for endpoint in (_KAFKA, _LOGGING))
        except Exception as error:
            raise Unavailable(f"could not fetch Kafka {VERSION}: {error}; is the network there?") from error
    jars = {jar.name: jar for jar in kafka.path.glob("*/*.jar")}
    own = next(jar for jar in logging.path.glob("*/*.jar") if jar.name.startswith("log4j-slf4j-impl"))
    return jars | {own.name: own}
