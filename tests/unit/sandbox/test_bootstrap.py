"""`./blogstream` itself, in a project of its own whose pins are empty: nothing is downloaded."""

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
    """A project after its first start. Its command line says what it was given."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "blogstream", project)
    (project / "requirements").mkdir()
    for circle in ("sandbox", "dev"):
        (project / "requirements" / f"{circle}.txt").touch()
    cli = project / "sandbox" / "cli"
    cli.mkdir(parents=True)
    (cli / "__main__.py").write_text("import sys; print(sys.prefix, *sys.argv[1:], sep='|')")
    first = begin(project, "status", "--json")
    assert first.stderr == INSTALLING.format("sandbox") + "\n"
    assert first.stdout == f"{project / '.venv'}|status|--json\n"
    quick = tmp_path_factory.mktemp("quick")
    write_quick_venv(quick, project / ".venv")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(quick))
        yield project


@pytest.fixture
def project(installed: Path) -> Path:
    """The same project, with the sandbox's circle installed as it is pinned now."""
    begin(installed, "status")
    return installed


def command(project: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(project / "blogstream"), *arguments]


def begin(
    project: Path, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(project, *arguments), capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done


def pin(project: Path, circle: str, text: str) -> None:
    (project / "requirements" / f"{circle}.txt").write_text(text)


def test_a_second_start_installs_nothing(project: Path) -> None:
    assert begin(project, "status").stderr == ""


def test_a_folder_named_like_ours_where_the_caller_stands_is_not_run(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "__init__.py").write_text("raise SystemExit('not ours')")
    assert begin(project, "up", cwd=tmp_path).stdout.endswith("|up\n")


def test_changed_pins_are_installed_once(project: Path) -> None:
    pin(project, "sandbox", "# changed\n")
    assert begin(project, "status").stderr == INSTALLING.format("sandbox") + "\n"
    assert begin(project, "status").stderr == ""


def test_the_larger_circle_covers_the_smaller(project: Path) -> None:
    pin(project, "dev", "# as it was\n")
    assert begin(project, "test").stderr == INSTALLING.format("dev") + "\n"
    assert begin(project, "status").stderr == ""
    pin(project, "dev", "# changed\n")
    assert begin(project, "status").stderr == ""  # what the sandbox needs is what it was
    assert begin(project, "test").stderr == INSTALLING.format("dev") + "\n"


def test_what_was_cut_half_way_is_made_anew(project: Path) -> None:
    left_behind = project / ".venv" / "left-behind"
    left_behind.touch()
    (project / ".venv" / ".blogstream-unfinished").touch()
    (project / ".venv" / ".blogstream-sandbox").unlink()
    (project / ".venv" / ".blogstream-dev").unlink(missing_ok=True)
    assert begin(project, "status").stderr == INSTALLING.format("sandbox") + "\n"
    assert not left_behind.exists()


def test_a_failed_installation_is_not_taken_for_one_and_is_tried_again(project: Path) -> None:
    pin(project, "sandbox", "no-hash-beside-it==1\n")
    failed = subprocess.run(command(project, "status"), capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.endswith(
        "blogstream: the installation failed, see above; the next start tries again\n"
    )
    pin(project, "sandbox", "")
    assert begin(project, "status").stderr == INSTALLING.format("sandbox") + "\n"


def test_of_two_starts_at_once_one_installs_and_the_other_waits(project: Path) -> None:
    pin(project, "sandbox", "# changed by somebody else\n")
    with (project / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that both have come to the lock before either goes on
        both = [
            subprocess.Popen(
                command(project, "status"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [out.endswith("|status\n") for out, _ in told] == [True, True]
    assert sorted(err for _, err in told) == ["", INSTALLING.format("sandbox") + "\n"]


def test_the_lock_is_held_while_an_installer_goes_on_without_its_starter(
    project: Path, tmp_path: Path
) -> None:
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    os.mkfifo(started)
    os.mkfifo(go_on)
    holding_up = os.open(go_on, os.O_RDWR)
    python = project / ".venv" / "bin" / "python"
    kept = python.readlink()
    python.unlink()
    python.write_text(
        f"#!/bin/sh\n[ $3 = --version ] && exit 0\nexec 9< '{go_on}'; echo > '{started}'; cat <&9\n"
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
        os.close(holding_up)
        python.unlink()
        python.symlink_to(kept)
    with (project / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # free once the installer has ended


def test_an_older_python_is_told_so_in_one_line() -> None:
    script = "import runpy, sys; sys.version_info = (3, 10, 9); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "blogstream")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("blogstream: needs Python 3.11 or later, and this is ")
    assert len(done.stderr.splitlines()) == 1
