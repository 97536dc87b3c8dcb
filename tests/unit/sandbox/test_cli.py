"""The command line: usage, version, and errors as one line and an exit code."""

from importlib import import_module

import pytest
import typer

from sandbox.cli import __main__ as main
from sandbox.cli import migrate
from sandbox.cli.admin import AdminCommand
from sandbox.cli.test import pytest_arguments
from sandbox.system.home import ROOT
from shared.domain.errors import Unavailable

PYPROJECT = ROOT / "pyproject.toml"


def failing_command(error: BaseException) -> typer.Typer:
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @application.command()
    def command() -> None:
        raise error

    return application


def test_every_command_has_an_application() -> None:
    for name in main.COMMANDS:
        assert isinstance(
            import_module(main.module_name(name)).application, typer.Typer | AdminCommand
        )


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["help"], 0)])
def test_usage_names_every_command(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == code
    usage = capsys.readouterr().out
    assert all(f"  {name} " in usage for name in main.COMMANDS)


def test_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["fly"]) == 2
    assert capsys.readouterr().err.startswith("blogstream: no command 'fly'\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            Unavailable("Kafka is not there; start it"),
            3,
            "blogstream: Kafka is not there; start it",
        ),
        (
            ValueError("two\nlines"),
            1,
            "blogstream: migrate crashed: ValueError: two lines"
            " (BLOGSTREAM_TRACEBACK=1 shows the traceback)",
        ),
        (
            RuntimeError(),
            1,
            "blogstream: migrate crashed: RuntimeError: no reason given"
            " (BLOGSTREAM_TRACEBACK=1 shows the traceback)",
        ),
    ],
)
def test_error_is_printed_as_one_line(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("BLOGSTREAM_TRACEBACK", raising=False)
    monkeypatch.setattr(migrate, "application", failing_command(error))
    assert main.main(["migrate"]) == code
    assert capsys.readouterr().err == line + "\n"


def test_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOGSTREAM_TRACEBACK", "1")
    monkeypatch.setattr(migrate, "application", failing_command(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        main.main(["migrate"])


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "application", failing_command(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as caught:
        main.main(["migrate"])
    assert caught.value.code == 130


def test_version_is_that_of_pyproject(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert f'version = "{capsys.readouterr().out.split()[-1]}"' in PYPROJECT.read_text()


def _in_parallel(processes: int) -> list[str]:
    return ["-n", str(processes), "--dist", "loadscope", "--no-loadscope-reorder"]


@pytest.mark.parametrize(
    ("arguments", "unit", "cores", "expected"),
    [
        ([], False, 1, _in_parallel(4)),
        ([], False, 64, _in_parallel(4)),
        (["tests/unit/docs", "-x"], False, 2, ["tests/unit/docs", "-x"]),
        ([], True, 1, ["tests/unit", *_in_parallel(2)]),
        ([], True, 3, ["tests/unit", *_in_parallel(3)]),
        ([], True, 64, ["tests/unit", *_in_parallel(4)]),
        (["-x"], True, 2, ["tests/unit", *_in_parallel(2), "-x"]),
    ],
)
def test_test_command_builds_pytest_arguments(
    arguments: list[str], unit: bool, cores: int, expected: list[str]
) -> None:
    assert pytest_arguments(arguments, unit=unit, cores=cores) == expected
