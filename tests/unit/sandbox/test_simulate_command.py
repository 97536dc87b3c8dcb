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


def test_posts_that_were_not_requested_count_as_unfinished(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first of two posts ends within the hour, and the second one comes after it."""
    arguments = ["--posts", "1", "--burst", "7200:1:1", "--hours", "1", *QUICK]
    assert run(arguments) == 1
    printed = capsys.readouterr().out
    assert "1 of 2 posts done in 60.0 min, 0 failed, 1 not finished" in printed
    assert printed.endswith("cut off at --hours (60.0 min): 1 posts are left.\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--burst", "1:2"], "SECOND:STORES:POSTS"),
        (["--burst", "1:0:5"], "--burst 1:0:5: STORES and POSTS are at least 1"),
        (["--outage", "azure:1:2"], "openai or replicate"),
        (["--outage", "openai:soon:2"], "PROVIDER:SECOND:SECONDS"),
        (["--outage", "openai:5"], "--outage openai:5: give PROVIDER:SECOND:SECONDS"),
        (["--death", "-5"], "SECOND[:WORKERS]"),
        (["--death", "5:99"], "--death 5:99: more deaths than --workers 1"),
        (["--deploy", "nan"], "'--deploy': nan is not a finite number of at least 0"),
        (["--deploy", "5", "--deploy", "-1"], "'--deploy': -1 is not a finite number"),
        (["--deploy", "inf"], "'--deploy': inf is not a finite number"),
        (["--outline", "inf"], "'--outline': inf is not a finite number"),
        (["--article", "-3"], "'--article': -3 is not a finite number of at least 0.001"),
        (["--image", "nan"], "'--image': nan is not a finite number"),
        (["--rate", "nan"], "'--rate': nan is not a finite number"),
        (["--zipf", "inf"], "'--zipf': inf is not a finite number"),
        (["--images", "2"], "'--images': 2 is not a number from 0 to 1"),
        (["--images", "nan"], "'--images': nan is not a number from 0 to 1"),
        (["--hours", "inf"], "'--hours': inf is not a finite number"),
        (["--stores", "0"], "--stores"),
    ],
)
def test_wrong_options_exit_with_2(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert problem in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_missing_file_and_small_account_exit_with_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["simulate", "--arrivals", str(tmp_path / "none.csv")]) == 3
    assert "none.csv cannot be read" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_TPM", "1000")
    assert main(["simulate"]) == 3
    assert "OPENAI_TPM cannot carry one call" in capsys.readouterr().err
