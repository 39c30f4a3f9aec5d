"""Loss logs in every format, written by hand: no tracker is needed to test that its files are read."""

import json
import sqlite3
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numguard.records.loss_logs.crc32c import masked

Losses = Sequence[float]


def write_csv(folder: Path, losses: Losses) -> Path:
    path = folder / "losses.csv"
    path.write_text("step,loss,lr\n" + "".join(f"{step},{loss!r},1e-3\n" for step, loss in enumerate(losses)))
    return path


def write_lines(folder: Path, losses: Losses) -> Path:
    path = folder / "losses.jsonl"
    rows = [{"step": step, "train/loss": loss} for step, loss in enumerate(losses)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_trainer_state(folder: Path, losses: Losses) -> Path:
    """Write what Hugging Face's Trainer keeps in a checkpoint: rows of training and evaluation, and a last mean."""
    path = folder / "trainer_state.json"
    rows: list[dict[str, Any]] = []
    for step, loss in enumerate(losses):
        rows.append({"epoch": step / 10, "grad_norm": 1.5, "learning_rate": 1e-4, "loss": loss, "step": step})
        if step % 10 == 9:
            rows.append({"epoch": step / 10, "eval_loss": 99.0, "step": step})
    rows.append({"epoch": 1.0, "train_loss": 77.0, "train_runtime": 5.0, "step": len(losses)})
    path.write_text(json.dumps({"epoch": 1.0, "global_step": len(losses), "log_history": rows}, indent=2))
    return path


def write_wandb_history(folder: Path, losses: Losses) -> Path:
    """Write ``run.history()`` of Weights & Biases as CSV: other metrics have rows of their own."""
    path = folder / "history.csv"
    rows = "".join(f"{2 * step},{loss!r},\n{2 * step + 1},,0.5\n" for step, loss in enumerate(losses))
    path.write_text("_step,train/loss,gpu\n" + rows)
    return path


def write_wandb_chart(folder: Path, losses: Losses) -> Path:
    """Write the table that a chart of Weights & Biases exports, with two runs."""
    path = folder / "chart.csv"
    heads = [f'"{run} - train/loss{end}"' for run in ("first - try", "second") for end in ("", "__MIN", "__MAX")]
    rows = "".join(
        f'"{step}","{loss!r}","{loss!r}","{loss!r}","{loss + 1!r}","{loss + 1!r}","{loss + 1!r}"\n'
        for step, loss in enumerate(losses)
    )
    path.write_text(",".join(['"Step"', *heads]) + "\n" + rows)
    return path


def write_trackio(folder: Path, losses: Losses) -> Path:
    """Write a project of Trackio: SQLite, metrics as JSON text."""
    path = folder / "project.db"
    base = sqlite3.connect(path)
    base.execute(
        "CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT)"
    )
    rows = [("2026", "run-1", step, json.dumps({"loss": loss})) for step, loss in enumerate(losses)]
    base.executemany("INSERT INTO metrics (timestamp, run_name, step, metrics) VALUES (?, ?, ?, ?)", rows)
    base.commit()
    base.close()
    return path


def write_trackio_export(folder: Path, losses: Losses) -> Path:
    """Write what ``trackio get metric --json`` prints."""
    path = folder / "metric.json"
    values = [{"timestamp": "2026", "step": step, "value": loss} for step, loss in enumerate(losses)]
    path.write_text(json.dumps({"project": "p", "run": "run-1", "metric": "loss", "values": values}))
    return path


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def event(step: int, scalars: Mapping[str, float], *, as_tensor: bool = False) -> bytes:
    """Return an ``Event`` of TensorBoard with a value for each scalar."""
    values = b""
    for tag, value in scalars.items():
        tensor = b"\x08\x01" + field(4, struct.pack("<f", value))
        number = field(8, tensor) if as_tensor else b"\x15" + struct.pack("<f", value)
        values += field(1, field(1, tag.encode()) + number)
    return b"\x09" + struct.pack("<d", 1.5) + b"\x10" + varint(step) + field(5, values)


def record(data: bytes) -> bytes:
    """Return the TFRecord frame around some data."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def write_tensorboard(folder: Path, losses: Losses, *, as_tensor: bool = False) -> Path:
    """Write an event file as ``SummaryWriter.add_scalar`` does: one event for each scalar."""
    path = folder / "events.out.tfevents.1700000000.host.1.0"
    start = record(b"\x09" + struct.pack("<d", 1.5) + field(3, b"brain.Event:2"))
    records = [
        record(event(step, {tag: value}, as_tensor=as_tensor))
        for step, loss in enumerate(losses)
        for tag, value in (("train/loss", loss), ("train/lr", 0.5))
    ]
    path.write_bytes(start + b"".join(records))
    return path


WRITERS: Mapping[str, Callable[[Path, Losses], Path]] = {
    "CSV": write_csv,
    "JSON lines": write_lines,
    "Hugging Face": write_trainer_state,
    "W&B history": write_wandb_history,
    "TensorBoard": write_tensorboard,
    "TensorBoard, tensors": lambda folder, losses: write_tensorboard(folder, losses, as_tensor=True),
    "Trackio": write_trackio,
    "Trackio export": write_trackio_export,
}
