"""`./blogstream simulate`: options, output, exit codes."""

import json
from pathlib import Path

import pytest

from sandbox.cli.__main__ import main

QUICK = ["--outline", "1", "--article", "2", "--image", "1"]


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_table_and_picture_are_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    arguments = ["--stores", "20", "--posts", "80", "--workers", "2", *QUICK]
    assert run([*arguments, "--plot", str(picture), "--check"]) == 0
    printed = capsys.readouterr().out
    for words in ("largest 1 %", "wait p50", "openai tokens", "80 of 80 posts done", "Jain"):
        assert words in printed
    assert picture.read_text(encoding="utf-8").startswith("<svg")


def test_seed_repeats_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("7", "7", "8"):
        assert run(["--posts", "30", *QUICK, "--seed", seed, "--json"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_limits_of_the_environment_decide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_RPM", "60")
    monkeypatch.setenv("CONCURRENT_BLOGS", "10")
    assert run(["--burst", "0:4:15", *QUICK, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["posts"], report["slots"], report["binding"]) == (60, 10, "openai requests")
    assert report["limits"][0]["per_minute"] == 60
    assert 80 < report["makespan_s"] < 95, "a fresh account has saved a minute, and spends 35 s"


def test_recorded_arrivals_replace_the_generated_ones(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recorded = tmp_path / "arrivals.csv"
    recorded.write_text("at,store,posts\n0,a,3\n5,b,2\n", encoding="utf-8")
    assert run(["--arrivals", str(recorded), *QUICK, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["posts"], report["stores"], report["done"]) == (5, 2, 5)


def test_unfinished_posts_exit_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--posts", "50", "--hours", "0.01", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["unfinished"] > 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--burst", "1:2"], "SECOND:STORES:POSTS"),
        (["--burst", "1:0:5"], "at least 1"),
        (["--outage", "azure:1:2"], "openai or replicate"),
        (["--outage", "openai:soon:2"], "PROVIDER:SECOND:SECONDS"),
        (["--death", "-5"], "SECOND[:WORKERS]"),
        (["--stores", "0"], "--stores"),
    ],
)
def test_wrong_options_exit_with_2(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert problem in capsys.readouterr().err


def test_missing_file_and_small_account_exit_with_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["simulate", "--arrivals", str(tmp_path / "none.csv")]) == 3
    assert "none.csv cannot be read" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_TPM", "1000")
    assert main(["simulate"]) == 3
    assert "OPENAI_TPM cannot carry one call" in capsys.readouterr().err
