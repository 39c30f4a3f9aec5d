"""Every format that is promised is read, and says the same losses."""

import json
import struct
from pathlib import Path

import pytest

import numguard
from numguard.records.loss_logs import read_loss_log
from numguard.records.loss_logs.crc32c import checksum
from tests.records.loss_logs.written_logs import (
    WRITERS,
    event,
    record,
    write_csv,
    write_tensorboard,
    write_trainer_state,
    write_wandb_chart,
)

LOSSES = [3.0 - 0.03125 * step for step in range(40)]  # exact in float32 too


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_says_the_same(kind: str, tmp_path: Path) -> None:
    log = read_loss_log(WRITERS[kind](tmp_path, LOSSES))
    every = 2 if kind == "W&B history" else 1
    assert log.columns["loss"][:] == LOSSES
    assert list(log.columns["step"]) == [every * step for step in range(40)]
    assert not log.damage
    assert len(log.runs) == 1
    (curve,) = log.curves()
    assert (curve.num_steps, curve.last_loss) == (40, LOSSES[-1])


def test_what_stands_beside_the_loss_is_read(tmp_path: Path) -> None:
    log = read_loss_log(write_trainer_state(tmp_path, LOSSES))
    assert log.columns["lr"][:] == [1e-4] * 40
    assert log.columns["grad_norm"][:] == [1.5] * 40
    assert log.names == {"step": "step", "loss": "loss", "grad_norm": "grad_norm", "lr": "learning_rate"}


def test_a_folder_is_read_by_what_is_in_it(tmp_path: Path) -> None:
    for name in ("checkpoint-40", "runs/Nov21"):
        (tmp_path / name).mkdir(parents=True)
    write_trainer_state(tmp_path / "checkpoint-40", LOSSES)
    write_tensorboard(tmp_path / "runs/Nov21", LOSSES)
    assert read_loss_log(tmp_path / "checkpoint-40").format == "JSON"
    assert read_loss_log(tmp_path / "runs").format == "TensorBoard"


def test_an_exported_chart_holds_several_runs(tmp_path: Path) -> None:
    log = read_loss_log(write_wandb_chart(tmp_path, LOSSES))
    assert log.runs == ("first - try", "second")
    assert log.rows("first - try")[1] == LOSSES
    assert log.rows("second")[1] == [loss + 1 for loss in LOSSES]


@pytest.mark.parametrize("budget", [0.01, None])
def test_a_guarded_run_is_a_log(tmp_path: Path, budget: float | None) -> None:
    with numguard.guard(run_dir=tmp_path, budget=budget) as guard:
        for loss in LOSSES[:30]:
            guard.step(loss, lr=0.5, batch_id="b")
    with numguard.guard(run_dir=tmp_path) as guard:
        for step in range(30, 40):
            guard.step(LOSSES[step], step=step)
    log = read_loss_log(tmp_path)
    assert log.columns["loss"][:] == LOSSES
    assert list(log.columns["step"]) == [*range(40)]
    assert log.columns["lr"][:] == [0.5] * 30 + [None] * 10
    assert log.columns["batch_id"] == ["b"] * 30 + [None] * 10


def test_scalars_of_one_event_and_of_several_are_one_row(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    both = [record(event(step, {"loss": 2.0, "lr": 0.5})) for step in range(3)]
    apart = [record(event(step, {tag: 1.0})) for step in range(3, 6) for tag in ("loss", "lr")]
    path.write_bytes(b"".join(both + apart))
    log = read_loss_log(path)
    assert list(log.columns["step"]) == [*range(6)]
    assert log.columns["lr"][:] == [0.5] * 3 + [1.0] * 3


def test_the_checksum_is_the_published_one() -> None:
    """RFC 3720, appendix B.4."""
    assert checksum(b"123456789") == 0xE3069283
    assert struct.pack("<I", checksum(bytes(32))) == bytes.fromhex("aa36918a")
    assert struct.pack("<I", checksum(b"\xff" * 32)) == bytes.fromhex("43aba862")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(tmp_path: Path, separator: str, end: str) -> None:
    path = tmp_path / "log"
    text = end.join([f"\ufeffStep{separator}Train Loss", f"0{separator}2.5", f"1{separator}2.25"])
    path.write_bytes(text.encode())
    assert read_loss_log(path).columns["loss"][:] == [2.5, 2.25]


def test_a_column_of_another_name_is_found_or_asked_for(tmp_path: Path) -> None:
    path = write_csv(tmp_path, LOSSES)
    path.write_text(path.read_text().replace("loss", "my-loss-nats"))
    assert read_loss_log(path).names["loss"] == "my-loss-nats"
    path.write_text(path.read_text().replace("my-loss-nats", "nll"))
    assert read_loss_log(path, {"loss": "nll"}).columns["loss"][:] == LOSSES


def test_no_column_of_steps_numbers_the_rows_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"loss": loss}) + "\n" for loss in LOSSES))
    log = read_loss_log(path)
    assert list(log.columns["step"]) == [*range(40)]
    assert "numbered" in log.notes[0]
