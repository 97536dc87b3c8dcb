"""`./blogstream` in a project of its own with empty pins: nothing is downloaded."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.system.home import ROOT
from tests.support.quick_venv import write_quick_venv

INSTALLING = "blogstream: installing what is pinned in requirements/{}.txt (once)"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project after its first start. Its command line prints its arguments."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "blogstream", project)
    (project / "requirements").mkdir()
    for requirement_set in ("sandbox", "dev"):
        (project / "requirements" / f"{requirement_set}.txt").touch()
    cli = project / "sandbox" / "cli"
    cli.mkdir(parents=True)
    (cli / "__main__.py").write_text("import sys; print(sys.prefix, *sys.argv[1:], sep='|')")
    first = start(project, "status", "--json")
    assert first.stderr == INSTALLING.format("sandbox") + "\n"
    assert first.stdout == f"{project / '.venv'}|status|--json\n"
    quick = tmp_path_factory.mktemp("quick")
    write_quick_venv(quick, project / ".venv")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(quick))
        yield project


@pytest.fixture
def project(installed: Path) -> Path:
    """The same project, with the current pins of the sandbox installed."""
    start(installed, "status")
    return installed


def command(project: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(project / "blogstream"), *arguments]


def start(
    project: Path, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(project, *arguments), capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done


def pin(project: Path, requirement_set: str, text: str) -> None:
    (project / "requirements" / f"{requirement_set}.txt").write_text(text)


def test_second_start_installs_nothing(project: Path) -> None:
    assert start(project, "status").stderr == ""


def test_sandbox_folder_in_the_working_directory_is_not_run(project: Path, tmp_path: Path) -> None:
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "__init__.py").write_text("raise SystemExit('another project')")
    assert start(project, "up", cwd=tmp_path).stdout.endswith("|up\n")


def test_changed_pins_are_installed_once(project: Path) -> None:
    pin(project, "sandbox", "# changed\n")
    assert start(project, "status").stderr == INSTALLING.format("sandbox") + "\n"
    assert start(project, "status").stderr == ""


def test_larger_requirement_set_covers_the_smaller(project: Path) -> None:
    pin(project, "dev", "# as it was\n")
    assert start(project, "test").stderr == INSTALLING.format("dev") + "\n"
    assert start(project, "status").stderr == ""
    pin(project, "dev", "# changed\n")
    assert start(project, "status").stderr == ""  # the sandbox's pins are unchanged
    assert start(project, "test").stderr == INSTALLING.format("dev") + "\n"


def test_interrupted_installation_starts_over(project: Path) -> None:
    left_behind = project / ".venv" / "left-behind"
    left_behind.touch()
    (project / ".venv" / ".blogstream-unfinished").touch()
    (project / ".venv" / ".blogstream-sandbox").unlink()
    (project / ".venv" / ".blogstream-dev").unlink(missing_ok=True)
    assert start(project, "status").stderr == INSTALLING.format("sandbox") + "\n"
    assert not left_behind.exists()


def test_failed_installation_is_tried_again(project: Path) -> None:
    pin(project, "sandbox", "no-hash-beside-it==1\n")
    failed = subprocess.run(command(project, "status"), capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.endswith(
        "blogstream: the installation failed, see above; the next start tries again\n"
    )
    pin(project, "sandbox", "")
    assert start(project, "status").stderr == INSTALLING.format("sandbox") + "\n"


def test_one_of_two_concurrent_starts_installs(project: Path) -> None:
    pin(project, "sandbox", "# changed by another start\n")
    with (project / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held until both have started
        both = [
            subprocess.Popen(
                command(project, "status"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [out.endswith("|status\n") for out, _ in outputs] == [True, True]
    assert sorted(err for _, err in outputs) == ["", INSTALLING.format("sandbox") + "\n"]


def test_installer_keeps_the_lock_when_its_starter_dies(project: Path, tmp_path: Path) -> None:
    started, finish = tmp_path / "started", tmp_path / "finish"
    os.mkfifo(started)
    os.mkfifo(finish)
    blocking_installer = os.open(finish, os.O_RDWR)
    python = project / ".venv" / "bin" / "python"
    interpreter = python.readlink()
    python.unlink()
    python.write_text(
        "#!/bin/sh\n[ $3 = --version ] && exit 0\n"
        f"exec 9< '{finish}'; echo > '{started}'; cat <&9\n"
    )
    python.chmod(0o755)
    pin(project, "sandbox", "# changed once more\n")
    try:
        starter = subprocess.Popen(command(project, "status"), stderr=subprocess.DEVNULL)
        started.read_text()  # the installer runs
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        with (project / ".venv.lock").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(blocking_installer)
        python.unlink()
        python.symlink_to(interpreter)
    with (project / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # free once the installer has ended


def test_older_python_gets_a_one_line_error() -> None:
    script = (
        "import runpy, sys; sys.version_info = (3, 10, 9);"
        " runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "blogstream")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("blogstream: needs Python 3.11 or later, and this is ")
    assert len(done.stderr.splitlines()) == 1
