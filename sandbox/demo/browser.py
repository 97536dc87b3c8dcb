"""The Chromium that is on the machine: for the demo's picture, and for the tests of the page."""

import os
import shutil
import subprocess
from pathlib import Path

from shared.domain.errors import Unavailable

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PACKAGES = ("chromium", "fonts-liberation")
_PATIENCE_S = 90
"""For each call of apt-get."""


def find_browser() -> Path | None:
    """The browser's executable, None when there is none."""
    return next((Path(found) for name in _NAMES if (found := shutil.which(name))), None)


def find_or_install() -> Path:
    """The browser, installed first where that can be done; `Unavailable` with the reason where it cannot."""
    found = find_browser()
    if found is None:
        _install()
        found = find_browser()
    if found is None:
        raise Unavailable("no Chromium: its package was installed and brought none")
    return found


def _install() -> None:
    if shutil.which("apt-get") is None:
        raise Unavailable("no Chromium on this machine, and no apt-get to install it with")
    if os.geteuid() != 0:
        raise Unavailable(
            "no Chromium on this machine, and only root may install it: apt-get install chromium"
        )
    if not _apt("install", *_PACKAGES):  # the lists of packages may be missing, or old
        _apt("update")
        if not _apt("install", *_PACKAGES):
            raise Unavailable("no Chromium on this machine, and apt-get install chromium failed")


def _apt(command: str, *packages: str) -> bool:
    argv = ("apt-get", command, "--yes", "--quiet", "--no-install-recommends", *packages)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, env=environment, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
