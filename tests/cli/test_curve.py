"""``numguard curve``: its exit codes, its one-line refusals, its page, and that nothing is lost."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import numguard
from numguard.cli import main
from tests.detectors.made_curves import curve
from tests.records.loss_logs.written_logs import WRITERS

SPIKE = 1500


def write_log(folder: Path, *, spike: float = 0.0, seed: int = 1, name: str = "log.csv", drift: float = 0.0) -> str:
    losses = curve(2000, seed=seed)
    losses[SPIKE : SPIKE + 20] += spike
    losses[1800:] += [drift * row for row in range(200)]
    path = folder / name
    path.write_text("step,loss\n" + "".join(f"{step},{loss:.6f}\n" for step, loss in enumerate(losses)))
    return str(path)


def said(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> tuple[str, str]:
    assert main(["curve", *words]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["curve", *words])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("numguard: ")
    return line


def in_json(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> Any:
    return json.loads(said(capsys, code, *words, "--json")[0], parse_constant=pytest.fail)


def test_a_healthy_log_is_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, 0, write_log(tmp_path))
    assert out.startswith("no alarm in 2,000 rows of 1 run")
    assert "false alarms per 10,000 steps" in out
    assert err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"], "nothing is written where nobody asked for it"


def test_a_spike_is_exit_code_1_in_text_json_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path, spike=1.5)
    out, _ = said(capsys, 1, log)
    assert f"warning at step {SPIKE:,}: loss_spike" in out
    content = in_json(capsys, 1, log, "--out", str(tmp_path / "page"))
    (run,) = content["runs"]
    assert (run["findings"][0]["kind"], run["findings"][0]["first_caught_step"]) == ("loss_spike", SPIKE)
    page = (tmp_path / "page" / "curve.html").read_text(encoding="utf-8")
    assert "loss_spike" in page
    assert "usual range" in page


def test_a_slow_drift_is_seen_against_an_earlier_run_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = write_log(tmp_path, name="earlier.csv", seed=5)
    log = write_log(tmp_path, drift=1e-4)
    assert in_json(capsys, 0, log)["num_alarms"] == 0
    content = in_json(capsys, 1, log, "--reference", earlier)
    assert content["runs"][0]["findings"][0]["kind"] in ("loss_drift", "loss_shift")
    assert "earlier.csv" in content["runs"][0]["compared_with"]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_works_from_the_command_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = [3.0 - 0.01 * step for step in range(30)] + [math.nan]
    path = WRITERS[kind](tmp_path, losses)
    kinds = [finding["kind"] for finding in in_json(capsys, 1, str(path))["runs"][0]["findings"]]
    assert kinds == ["nonfinite"]


def test_a_guarded_run_is_looked_at_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with numguard.guard(run_dir=tmp_path / "run") as guard:
        for loss in curve(200).tolist():
            guard.step(loss)
    assert in_json(capsys, 0, str(tmp_path / "run"))["files"][0]["num_rows"] == 200


def test_a_damaged_log_is_exit_code_3_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(write_log(tmp_path))
    path.write_text(path.read_text() + "2000,broken\n")
    out, err = said(capsys, 3, str(path))
    (line,) = err.splitlines()
    assert line.startswith(f"numguard: {path}: 1 line rejected (log.csv:line 2002: ")
    assert "no alarm in 2,000 rows" in out


def test_damage_does_not_hide_an_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(write_log(tmp_path, spike=1.5))
    path.write_text(path.read_text() + "2000,broken\n")
    _, err = said(capsys, 1, str(path))
    assert "1 line rejected" in err


def test_a_registered_prediction_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.session.test_loss_watch import trend_near

    registry = tmp_path / "predictions.json"
    trend_near(curve(2000), path=registry)
    log = write_log(tmp_path)
    content = in_json(capsys, 0, log, "--trend", str(registry), "--out", str(tmp_path / "page"))
    assert [band["name"] for band in content["bands"]] == ["large"]
    registry.unlink()
    trend_near(curve(2000), path=registry, shift=1.0)
    assert in_json(capsys, 1, log, "--trend", str(registry))["runs"][0]["findings"][0]["kind"] == "off_trend"
    assert "no prediction named 'small'" in refusal(capsys, log, "--trend", str(registry), "--prediction", "small")


@pytest.mark.parametrize("option", ["--out", "--html"])
def test_a_page_goes_into_a_folder_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    log = write_log(tmp_path)
    for place, page in {"new/page.html": "new/page.html", "folder": "folder/curve.html"}.items():
        main(["curve", log, option, str(tmp_path / place)])
        assert (tmp_path / page).is_file()
        assert place in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num_bad", "says"), [(3, "the last loss is finite again, 2"), (30, "and the last loss is nan")]
)
def test_what_became_of_a_nonfinite_loss_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], num_bad: int, says: str
) -> None:
    rows = [f"{step},{'nan' if 20 <= step < 20 + num_bad else 2.0}\n" for step in range(50)]
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(rows))
    (finding,) = in_json(capsys, 1, str(path))["runs"][0]["findings"]
    assert finding["kind"] == "nonfinite"
    assert says in finding["message"]
    assert ("Stop" in finding["advice"]) == (num_bad == 30)


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path)
    assert "missing.csv" in refusal(capsys, str(tmp_path / "missing.csv"))
    assert "loss=train/nll" in refusal(capsys, log, "--column", "loss")
    assert "'nll'" in refusal(capsys, log, "--column", "loss=nll")
    assert "give a file or folder" in refusal(capsys)
    assert "--trend FILE" in refusal(capsys, log, "--prediction", "x")
    assert "log.csv" in refusal(capsys, log, "--out", log)


ATTACKS = ("</script><script>x", '<img src=x onerror="x">', "{{7*7}}", "a\x1b[2Jb\u202ec", "=cmd|x", "x" * 5000)


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_names_are_inert_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], attack: str) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"run": attack, "step": step, "loss": 2.0 if step < 40 else "NaN"} for step in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, err = said(capsys, 1, str(path), "--out", str(tmp_path))
    as_json, _ = said(capsys, 1, str(path), "--json")
    for text in (out, err, as_json):
        assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
        assert "\u202e" not in text
    page = (tmp_path / "curve.html").read_text(encoding="utf-8")
    assert "<script>x" not in page
    assert "<img" not in page.partition("<body>")[2].partition('<script type="application/json"')[0]
    assert ">49<" not in page
