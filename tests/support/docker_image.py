"""Runs the image's commands without Docker, in a copy of its /app folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sandbox.system.home import ROOT

_START = """
import runpy, sys
sys.modules.update(dict.fromkeys({missing!r}))  # makes their import fail
sys.path.insert(0, "")
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def fill(app: Path) -> None:
    """Copy exactly the folders that the Dockerfile copies."""
    copied = re.findall(r"^COPY (\w+) (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {source for source, _ in copied} == {"shared", "admin", "migrations", "services"}
    for source, target in copied:
        shutil.copytree(ROOT / source, app / target, ignore=shutil.ignore_patterns("__pycache__"))


def run_in(app: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module like the image's entry point, without the packages of the sandbox."""
    text = (ROOT / "requirements" / "sandbox.in").read_text()
    missing = {
        name.replace("-", "_")
        for name in re.findall(r"^(?!httpx)([a-z][\w-]+)", text, re.MULTILINE)
    }
    return subprocess.run(
        [sys.executable, "-P", "-c", _START.format(missing=missing), *arguments],
        cwd=app,
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
