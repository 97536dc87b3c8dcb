"""The frame of the command line: what goes wrong becomes one line and an exit code."""

from importlib import import_module

import pytest
import typer

from sandbox.cli import __main__ as frame
from sandbox.cli import migrate
from sandbox.cli.admin import AdminCommand
from shared.domain.errors import Unavailable


def failing(error: BaseException) -> typer.Typer:
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @application.command()
    def command() -> None:
        raise error

    return application


def test_every_command_is_there() -> None:
    for name in frame.COMMANDS:
        assert isinstance(
            import_module(frame.module_name(name)).application, typer.Typer | AdminCommand
        )


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["help"], 0)])
def test_usage_names_every_command(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.main(arguments) == code
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in frame.COMMANDS)


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["fly"]) == 2
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
def test_what_goes_wrong_is_one_line(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("BLOGSTREAM_TRACEBACK", raising=False)
    monkeypatch.setattr(migrate, "application", failing(error))
    assert frame.main(["migrate"]) == code
    assert capsys.readouterr().err == line + "\n"


def test_the_traceback_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOGSTREAM_TRACEBACK", "1")
    monkeypatch.setattr(migrate, "application", failing(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        frame.main(["migrate"])


def test_an_interrupt_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "application", failing(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as caught:
        frame.main(["migrate"])
    assert caught.value.code == 130
