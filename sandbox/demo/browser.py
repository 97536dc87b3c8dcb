"""Finds the machine's Chromium for the demo's screenshots and the dashboard's tests.

It never installs a system package unless BLOGSTREAM_INSTALL_BROWSER=1 asks for it.
"""

import os
import shutil
import subprocess
from pathlib import Path

from shared.domain.errors import Unavailable

INSTALL_VARIABLE = "BLOGSTREAM_INSTALL_BROWSER"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PACKAGES = ("chromium", "fonts-liberation")
_APT_TIMEOUT_S = 90
"""For each call of apt-get."""


def find_browser() -> Path | None:
    """Return the browser's executable; `None` when the machine has no browser."""
    return next((Path(found) for name in _NAMES if (found := shutil.which(name))), None)


def require_browser() -> Path:
    """Return the browser's executable; raise `Unavailable` with the remedy when there is none.

    With BLOGSTREAM_INSTALL_BROWSER=1 (set by `.ci/run`) it installs Chromium first.
    """
    found = find_browser()
    if found is None and os.environ.get(INSTALL_VARIABLE) == "1":
        _install_chromium()
        found = find_browser()
        if found is None:
            raise Unavailable("no Chromium found, although apt-get installed the package chromium")
    if found is None:
        raise Unavailable(
            "no Chromium found; install the Debian package chromium,"
            f" or set {INSTALL_VARIABLE}=1 and run as root"
        )
    return found


def _install_chromium() -> None:
    if shutil.which("apt-get") is None:
        raise Unavailable("no Chromium found, and no apt-get to install it with")
    if os.geteuid() != 0:
        raise Unavailable(
            "no Chromium found, and only root may install it: apt-get install chromium"
        )
    if not _run_apt_get("install", *_PACKAGES):  # the package lists may be missing or old
        _run_apt_get("update")
        if not _run_apt_get("install", *_PACKAGES):
            raise Unavailable("no Chromium found, and apt-get install chromium failed")


def _run_apt_get(command: str, *packages: str) -> bool:
    argv = ("apt-get", command, "--yes", "--quiet", "--no-install-recommends", *packages)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, env=environment, capture_output=True, timeout=_APT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
