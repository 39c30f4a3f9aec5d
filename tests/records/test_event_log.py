"""The writer: what it acknowledges is there, and what goes wrong on the disk never reaches training."""

import json
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from numguard.records import EventLog, MemoryLog, events_of, finding_fields, iterate_events, next_attempt, read_run
from numguard.records.append_file import AppendFile, file_name
from tests.report.recorded_run import coverage_fields, start_fields, write_run, wrong_sum

STEP: dict[str, Any] = {"loss": 2.5, "step_seconds": 0.1, "own_seconds": 0.0, "armed": False}


def steps_of(run_dir: Path) -> list[int]:
    return [event.fields["step"] for event in iterate_events(run_dir) if event.event == "step"]


def only_file(run_dir: Path) -> Path:
    (path,) = (run_dir / "events").iterdir()
    return path


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    records = read_run(write_run(tmp_path))
    assert records.ranks == (0, 1)
    assert records.world_size == 2
    assert [finding.kind for finding in records.findings] == ["wrong_result", "loss_spike", "loss_noise"]
    assert records.findings[0] == wrong_sum(), "the last event of a finding supersedes the earlier ones"
    assert records.curves[0].num_steps == 400
    assert not records.damage


def test_a_finding_is_a_file_of_its_own_that_only_its_owner_reads(tmp_path: Path) -> None:
    write_run(tmp_path)
    path = tmp_path / "findings" / "r1-0001.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["count"] == 12
    assert [item.name for item in path.parent.iterdir() if item.suffix != ".json"] == []


@pytest.mark.parametrize("name", ["../../escape", "/etc/x", "a\0b", "", ".hidden", "x" * 500, "<b>"])
def test_no_finding_id_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / "deep" / "run"
    log = EventLog(run_dir, rank=0, attempt=0)
    assert log.write("finding", **finding_fields(wrong_sum(id=name)))
    (path,) = (run_dir / "findings").iterdir()
    assert json.loads(path.read_text())["id"] == name
    assert {item.name for item in tmp_path.iterdir()} == {"deep"}


def test_a_second_start_is_a_new_attempt(tmp_path: Path) -> None:
    assert next_attempt(tmp_path, 0) == 0
    write_run(tmp_path)
    assert next_attempt(tmp_path, 0) == 1
    assert next_attempt(tmp_path, 7) == 0
    log = EventLog(tmp_path, rank=0, attempt=1)
    log.write("start", **start_fields(0, attempt=1))
    log.close()
    assert json.loads((tmp_path / "manifest.json").read_text())["num_attempts"] == 2


def test_a_torn_tail_costs_no_later_event(tmp_path: Path) -> None:
    with_tail = AppendFile(tmp_path / "events", rank=0, attempt=0, pid=os.getpid())
    log = EventLog(tmp_path, rank=0, attempt=0)
    assert log.write("step", step=0, **STEP)
    with_tail.append(b'{"schema":1,"seq":1,"event":"st')
    with_tail.close()
    log.close()
    again = EventLog(tmp_path, rank=0, attempt=0)
    assert again.write("step", step=1, **STEP)
    again.close()
    assert steps_of(tmp_path) == [0, 1]
    damage = read_run(tmp_path).damage
    assert (damage.num_torn, damage.num_duplicate, damage.num_missing) == (1, 0, 0)


def test_a_full_disk_costs_events_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under a limit on the size of files the system takes a part of a line and then refuses: no half line stays."""
    log = EventLog(tmp_path, rank=0, attempt=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
        with caplog.at_level(logging.WARNING):
            taken = [log.write("step", step=step, **STEP) for step in range(40)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 0 < sum(taken) < 40
    assert log.num_dropped == taken.count(False)
    assert log.last_failure is not None
    assert len(caplog.records) == 1, "one warning, however many events are lost"
    assert log.write("step", step=40, **STEP)
    log.close()
    assert steps_of(tmp_path) == [step for step, kept in enumerate([*taken, True]) if kept]
    records = read_run(tmp_path)
    assert not records.damage
    (dropped,) = [event for event in records.happenings if event.event == "dropped"]
    assert dropped.fields["count"] == taken.count(False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_only_counted(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    log = EventLog(tmp_path / "run", rank=0, attempt=0)
    assert not log.write("step", step=0, **STEP)
    assert log.num_dropped == 1


def test_a_place_that_cannot_be_a_directory_is_only_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    log = EventLog(place, rank=0, attempt=0)
    assert not any(log.write("step", step=step, **STEP) for step in range(5))
    assert not log.write("finding", **finding_fields(wrong_sum()))
    log.sync()
    log.close()
    assert log.num_dropped == 6
    assert log.last_failure
    assert len(caplog.records) == 1
    assert place.read_text() == "in the way"
    assert [finding.kind for finding in log.records().findings] == ["wrong_result"], "the report still has it"


@pytest.mark.parametrize("path", ["a\0b", "/proc/nowhere/run", "x" * 5_000])
def test_an_impossible_path_is_only_counted(path: str) -> None:
    log = EventLog(path, rank=0, attempt=0)
    assert not log.write("step", step=0, **STEP)
    assert log.num_dropped == 1


@pytest.mark.parametrize("noticed_by", ["write", "sync", "close"])
def test_a_removed_directory_is_noticed_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, noticed_by: str
) -> None:
    run_dir = tmp_path / "run"
    log = EventLog(run_dir, rank=0, attempt=0)
    log.write("start", **start_fields(0))
    log.write("finding", **finding_fields(wrong_sum()))
    for step in range(3):
        assert log.write("step", step=step, **STEP)
    shutil.rmtree(run_dir)
    if noticed_by == "sync":
        log.sync()
    if noticed_by != "close":
        assert log.write("step", step=3, **STEP)
    log.close()
    assert log.num_dropped == 5
    assert "removed" in str(log.last_failure)
    assert len(caplog.records) == 1, "one warning"
    records = read_run(run_dir)
    assert steps_of(run_dir) == ([] if noticed_by == "close" else [3])
    assert [finding.kind for finding in records.findings] == ["wrong_result"], "memory still had it"
    assert json.loads((run_dir / "findings" / f"{wrong_sum().id}.json").read_text())["kind"] == "wrong_result"
    assert records.world_size == 2
    (dropped,) = [event for event in records.happenings if event.event == "dropped"]
    assert dropped.fields["count"] == 5


def test_a_directory_that_is_removed_again_and_again_costs_events_only(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run", rank=0, attempt=0)
    for step in range(4):
        assert log.write("step", step=step, **STEP)
        shutil.rmtree(tmp_path / "run")
    log.close()
    # Each time one step goes, and from the second time on the event that tells of those before.
    assert log.num_dropped == 4 + 3
    (dropped,) = [event for event in iterate_events(tmp_path / "run") if event.event == "dropped"]
    assert dropped.fields["count"] == 1 + 1


def test_a_removed_directory_that_cannot_be_made_again_is_only_counted(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run", rank=0, attempt=0)
    assert log.write("step", step=0, **STEP)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    assert not any(log.write("step", step=step, **STEP) for step in range(1, 4))
    log.close()
    assert log.num_dropped == 4


def test_a_shared_directory_that_is_removed_gets_the_next_batch(tmp_path: Path) -> None:
    shared, local = tmp_path / "shared", tmp_path / "local"
    log = EventLog(shared, rank=0, attempt=0, local_dir=local)
    log.write("step", step=0, **STEP)
    log.sync()
    shutil.rmtree(shared)
    log.write("step", step=1, **STEP)
    log.sync()
    assert "removed" in str(log.last_failure)
    log.close()
    assert steps_of(shared) == [1]
    assert log.num_dropped == 0, "both stand in the local file"


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("teapot", {}),
        ("step", {"step": 1}),
        ("step", {**STEP, "step": -1}),
        ("step", {**STEP, "step": 1, "crc": "0"}),
        ("step", {**STEP, "step": 1, "loss": object()}),
    ],
)
def test_an_event_that_is_none_is_dropped_with_its_reason(tmp_path: Path, event: str, fields: dict[str, Any]) -> None:
    log = EventLog(tmp_path, rank=0, attempt=0)
    assert not log.write(event, **fields)
    assert log.num_dropped == 1
    assert log.last_failure


def test_an_object_that_refuses_everything_is_no_reason_to_fail(tmp_path: Path) -> None:
    class Hostile:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

        def __repr__(self) -> str:
            raise RuntimeError

    circle: list[object] = []
    circle.append(circle)
    log = EventLog(tmp_path, rank=0, attempt=0)
    outcomes = [
        log.write("step", step=0, **STEP, extra=value) for value in (Hostile(), circle, {1: {2: {3}}}, 10**5_000)
    ]
    assert log.num_dropped == outcomes.count(False)
    assert log.write("step", step=1, **STEP)
    assert steps_of(tmp_path)[-1] == 1


def test_the_file_is_rotated_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numguard.records.append_file.ROTATE_AT_BYTES", 2_000)
    log = EventLog(tmp_path, rank=0, attempt=0)
    assert all(log.write("step", step=step, **STEP) for step in range(200))
    log.close()
    assert len(list((tmp_path / "events").iterdir())) > 10
    assert steps_of(tmp_path) == list(range(200))
    assert not read_run(tmp_path).damage


def test_a_fork_goes_on_in_a_file_of_its_own(tmp_path: Path) -> None:
    """Also while another thread of the parent holds the lock, which nobody would ever release in the child."""
    log = EventLog(tmp_path, rank=0, attempt=0)
    log.write("step", step=0, **STEP)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with log._lock:
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    program = os.fork()
    if program == 0:  # pragma: no cover
        signal.alarm(20)
        os._exit(0 if log.write("step", step=1, **STEP) else 1)
    _, status = os.waitpid(program, 0)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0
    log.write("step", step=2, **STEP)
    log.close()
    names = {path.name for path in (tmp_path / "events").iterdir()}
    assert names == {file_name(0, 0, os.getpid()), file_name(0, 0, program)}
    assert sorted(steps_of(tmp_path)) == [0, 1, 2]
    assert not read_run(tmp_path).damage


def test_threads_share_a_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path, rank=0, attempt=0)

    def write_some(offset: int) -> None:
        for step in range(100):
            log.write("step", step=offset + step, **STEP)

    threads = [threading.Thread(target=write_some, args=(1_000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(steps_of(tmp_path)) == 400
    assert not read_run(tmp_path).damage


def test_an_error_is_on_the_disk_when_it_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    log = EventLog(tmp_path, rank=0, attempt=0)
    monkeypatch.setattr("numguard.records.append_file._fdatasync", flushed.append)
    log.write("step", step=1, **STEP)
    assert flushed == [], "less than a second has passed"
    log.write("finding", **finding_fields(wrong_sum()))
    assert len(flushed) == 1


def test_a_local_directory_keeps_every_event_and_the_shared_one_gets_batches(tmp_path: Path) -> None:
    shared, local = tmp_path / "shared", tmp_path / "local"
    log = EventLog(shared, rank=0, attempt=0, local_dir=local)
    for step in range(10):
        log.write("step", step=step, **STEP)
    assert steps_of(local) == list(range(10))
    log.write("finding", **finding_fields(wrong_sum()))
    assert steps_of(shared) == list(range(10)), "an error brings everything over"
    log.write("step", step=10, **STEP)
    log.close()
    assert steps_of(shared) == steps_of(local) == list(range(11))


def test_memory_says_the_same_as_the_directory(tmp_path: Path) -> None:
    disk, memory = EventLog(tmp_path, rank=1, attempt=0), MemoryLog(rank=1)
    for log in (disk, memory):
        log.write("start", **start_fields(1))
        for step in range(3_000):
            log.write("step", step=step, **{**STEP, "loss": float(step % 97)})
        log.write("steps", step=3_001, rows=[[3_000, "nan", 0.1, 0.0, 1], [3_001, None, 0.1, 0.0, 0]], extras={})
        log.write("late_loss", step=3_001, loss=1.0)
        log.write("finding", **finding_fields(wrong_sum()))
        log.write("coverage", **coverage_fields())
        log.close()
    read, kept = read_run(tmp_path), events_of(memory)
    for name in ("findings", "curves", "coverage", "ranks", "happenings"):
        assert getattr(read, name) == getattr(kept, name) == getattr(disk.records(), name), name
    assert read.curves[0].num_steps == 3_002
    assert read.curves[0].nonfinite == ((3_000, "nan"),)


def test_a_child_started_by_exec_does_not_inherit_the_file(tmp_path: Path) -> None:
    log = EventLog(tmp_path, rank=0, attempt=0)
    log.write("step", step=0, **STEP)
    files = "[os.path.realpath(f'/proc/self/fd/{number}') for number in os.listdir('/proc/self/fd')]"
    command = [sys.executable, "-c", f"import os; print({files})"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, close_fds=False)
    assert "/fd/" in done.stdout
    assert only_file(tmp_path).name not in done.stdout
