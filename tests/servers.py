"""Starting and stopping a server outside of any event loop: the session's servers outlive every test's loop."""

import asyncio
import subprocess
import time
from pathlib import Path

import pytest

from sandbox.process import Spec


def start(spec: Spec, log: Path) -> subprocess.Popen[bytes]:
    """Start a server and wait until it is ready."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            spec.argv, env=dict(spec.env), stdout=output, stderr=subprocess.STDOUT, user=spec.user,
            extra_groups=[] if spec.user else None, start_new_session=True,
        )  # fmt: skip
    assert spec.ready_check is not None
    give_up = time.monotonic() + spec.ready_within_s
    while not asyncio.run(spec.ready_check()):
        if process.poll() is not None or time.monotonic() > give_up:
            stop(spec, process)
            pytest.fail(f"{spec.name} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
    return process


def stop(spec: Spec, process: subprocess.Popen[bytes]) -> int:
    """Stop it as its supervisor would; its exit code. Does nothing to one that has ended."""
    process.send_signal(spec.stop_signal)
    try:
        return process.wait(timeout=spec.stop_within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def open_to_others(folder: Path) -> Path:
    """Let other users pass through to this folder of pytest's: as root, PostgreSQL runs as one of them."""
    for part in (folder, folder.parent, folder.parent.parent):
        part.chmod(0o711)
    return folder
