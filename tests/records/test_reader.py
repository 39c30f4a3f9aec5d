"""The reader trusts nothing: what can be used is used, the rest is counted, named, and never a traceback."""

import gzip
import json
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from numguard.errors import InputError
from numguard.records import EventLog, iterate_events, read_run
from numguard.records.append_file import file_name
from numguard.records.lines import encoded
from tests.report.recorded_run import coverage_fields, start_fields, write_run

STEP: dict[str, Any] = {"loss": 2.5, "step_seconds": 0.1, "own_seconds": 0.0, "armed": False}


def lines(count: int, *, first: int = 0) -> list[bytes]:
    return [encoded(seq, "step", {"step": seq, **STEP})[0] for seq in range(first, first + count)]


def put(run_dir: Path, content: bytes, *, rank: int = 0, attempt: int = 0, pid: int = 9) -> Path:
    (run_dir / "events").mkdir(parents=True, exist_ok=True)
    path = run_dir / "events" / file_name(rank, attempt, pid)
    path.write_bytes(content)
    return path


def steps_of(run_dir: Path) -> list[int]:
    return [event.fields["step"] for event in iterate_events(run_dir)]


def test_a_torn_last_line_is_one_torn_line(tmp_path: Path) -> None:
    whole = b"".join(lines(5))
    for cut in range(1, len(lines(5)[-1]) - 1):
        put(tmp_path, whole[:-cut])
        damage = read_run(tmp_path).damage
        torn = int(cut > 1)  # without its line end only, the line is whole
        assert (damage.num_torn, damage.num_bad_crc, damage.num_rejected, damage.num_missing) == (torn, 0, 0, 0)
        assert len(steps_of(tmp_path)) == 5 - torn


def test_a_changed_line_in_the_middle_is_named(tmp_path: Path) -> None:
    many = lines(9)
    many[4] = many[4].replace(b"2.5", b"9.5")
    put(tmp_path, b"".join(many))
    damage = read_run(tmp_path).damage
    assert damage.num_bad_crc == 1
    assert damage.num_missing == 1
    assert damage.examples[0] == f"{file_name(0, 0, 9)}:5: bad CRC"
    assert steps_of(tmp_path) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_an_event_glued_to_a_torn_one_is_kept(tmp_path: Path) -> None:
    many = lines(3)
    put(tmp_path, many[0] + many[1][:40] + many[2])
    assert steps_of(tmp_path) == [0, 2]
    assert read_run(tmp_path).damage.num_missing == 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\n\n\n"])
def test_every_line_end_is_read(tmp_path: Path, end: bytes) -> None:
    put(tmp_path, b"".join(line[:-1] + end for line in lines(6)).removesuffix(end))
    assert steps_of(tmp_path) == list(range(6))
    assert not read_run(tmp_path).damage


def test_a_preallocated_tail_of_nul_bytes_is_counted(tmp_path: Path) -> None:
    put(tmp_path, b"".join(lines(3)) + b"\0" * 300_000)
    records = read_run(tmp_path)
    assert records.curves[0].num_steps == 3
    assert records.damage.num_rejected == 1


def test_duplicates_gaps_and_late_events_are_told_apart(tmp_path: Path) -> None:
    many = lines(8)
    order = [0, 1, 3, 2, 2, 5, 7]
    put(tmp_path, b"".join(many[index] for index in order))
    damage = read_run(tmp_path).damage
    assert (damage.num_duplicate, damage.num_missing) == (1, 2)
    assert sorted(steps_of(tmp_path)) == [0, 1, 2, 3, 5, 7]


@pytest.mark.parametrize(
    "magic", [gzip.compress(b"x", mtime=0), b"\x28\xb5\x2f\xfdrest", b"\xfd7zXZ\x00", b"BZh9", b"PK\x03\x04"]
)
def test_a_compressed_file_is_refused_with_its_name(tmp_path: Path, magic: bytes) -> None:
    path = put(tmp_path, magic)
    with pytest.raises(InputError, match="looks compressed") as refused:
        read_run(tmp_path)
    assert refused.value.path == str(path)


def test_two_processes_of_one_rank_are_named_both(tmp_path: Path) -> None:
    for pid in (8, 9):
        put(tmp_path, encoded(0, "start", start_fields(0))[0], pid=pid)
    records = read_run(tmp_path)
    assert records.damage.num_other == 1
    (note,) = records.notes
    assert file_name(0, 0, 8) in note
    assert file_name(0, 0, 9) in note


@pytest.mark.parametrize("time", ["nan", -5.0, 1e300])
def test_a_clock_that_cannot_be_is_a_note_and_changes_no_order(tmp_path: Path, time: object) -> None:
    put(tmp_path, encoded(0, "start", {**start_fields(0), "time": time})[0])
    assert "no valid time" in read_run(tmp_path).notes[0]


def test_clocks_days_apart_are_a_note(tmp_path: Path) -> None:
    for rank in (0, 1):
        put(tmp_path, encoded(0, "start", {**start_fields(rank), "time": 1.7e9 + rank * 3e5})[0], rank=rank)
    assert "more than a day" in read_run(tmp_path).notes[0]


def test_ranks_that_left_nothing_are_named(tmp_path: Path) -> None:
    put(tmp_path, encoded(0, "start", start_fields(1, world_size=4))[0], rank=1)
    records = read_run(tmp_path)
    assert records.missing_ranks == (0, 2, 3)
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "world_size": 3}))
    put(tmp_path, b"".join(lines(2)), rank=1)
    assert read_run(tmp_path).missing_ranks == (0, 2)


def test_an_impossible_world_size_costs_nothing(tmp_path: Path) -> None:
    put(tmp_path, encoded(0, "start", start_fields(0, world_size=2**62))[0])
    records = read_run(tmp_path)
    assert records.num_missing_ranks == 2**62 - 1
    assert len(records.missing_ranks) == 1_024


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000, b'{"world_size": true}', b"1" * 2**21])
def test_a_damaged_manifest_is_damage_and_no_more(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, b"".join(lines(2)))
    (tmp_path / "manifest.json").write_bytes(content)
    records = read_run(tmp_path)
    assert records.damage.num_other == 1
    assert records.curves[0].num_steps == 2


@pytest.mark.parametrize("path", ["missing", "a\0b", "x" * 5_000, "new\nline"])
def test_a_path_that_is_not_there_is_one_line(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError):
        read_run(tmp_path / path)


def test_a_directory_that_is_no_run_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no events/rank\*\.jsonl.*run_dir"):
        read_run(tmp_path)
    put(tmp_path, b"not an event\n")
    with pytest.raises(InputError, match="not one event in 1 file"):
        read_run(tmp_path)


def test_a_pipe_in_the_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    os.mkfifo(tmp_path / "events" / file_name(0, 0, 9))
    with pytest.raises(InputError, match="not a plain file"):
        read_run(tmp_path)


def test_foreign_files_are_left_aside_and_named(tmp_path: Path) -> None:
    put(tmp_path, b"".join(lines(2)))
    (tmp_path / "events" / "rank1.jsonl").write_bytes(b"x")
    records = read_run(tmp_path)
    assert records.damage.num_other == 1
    assert "rank1.jsonl" in records.damage.examples[0]


def test_one_file_alone_can_be_read(tmp_path: Path) -> None:
    path = put(tmp_path, b"".join(lines(4)), rank=3, attempt=2)
    (curve,) = read_run(path).curves
    assert (curve.rank, curve.attempt, curve.num_steps) == (3, 2, 4)


def test_a_log_that_is_being_written_is_read_as_it_stands(tmp_path: Path) -> None:
    log = EventLog(tmp_path, rank=0, attempt=0)
    for step in range(3):
        log.write("step", step=step, **STEP)
        assert steps_of(tmp_path) == list(range(step + 1))
    log.close()


@pytest.mark.parametrize(
    "change",
    [
        {"sites": [1]},
        {"sites": [{"op": 7}]},
        {"sites": [{**coverage_fields()["sites"][0], "seen": -1}]},
        {"sites": [{**coverage_fields()["sites"][0], "worst_ratio": 10**400}]},
        {"uncovered": {"reason": "many"}},
    ],
)
def test_a_site_that_is_none_is_counted(tmp_path: Path, change: dict[str, Any]) -> None:
    put(tmp_path, encoded(0, "coverage", {**coverage_fields(), **change})[0])
    assert read_run(tmp_path).damage.num_rejected == 1


@pytest.mark.parametrize("row", [7, [1], [-1, 1.0, 1.0, 1.0, 0], [1, "x", 1.0, 1.0, 0], [1, 10**400, 1, 1, 0]])
def test_a_row_of_steps_that_is_none_is_counted(tmp_path: Path, row: object) -> None:
    good = [5, 1.0, 0.1, 0.0, 1]
    put(tmp_path, encoded(0, "steps", {"step": 5, "rows": [row, good], "extras": {}})[0])
    records = read_run(tmp_path)
    assert records.damage.num_rejected == 1
    assert records.curves[0].points == ((5, 1.0),)


def test_random_damage_never_raises_anything_else(tmp_path: Path) -> None:
    """Bytes of a real run changed, cut, doubled and moved at random."""
    write_run(tmp_path / "sound")
    sound = [path.read_bytes() for path in sorted((tmp_path / "sound" / "events").iterdir())]
    noise = random.Random(7)
    for _ in range(60):
        for rank, content in enumerate(sound):
            damaged = bytearray(content)
            for _ in range(noise.randrange(1, 30)):
                start = noise.randrange(len(damaged))
                length = noise.randrange(1, 200)
                kind = noise.randrange(4)
                if kind == 0:
                    damaged[start] = noise.randrange(256)
                elif kind == 1:
                    del damaged[start : start + length]
                elif kind == 2:
                    damaged[start:start] = damaged[start : start + length]
                else:
                    damaged[start : start + 3] = noise.randbytes(3)
            put(tmp_path / "damaged", bytes(damaged), rank=rank)
        assert read_run(tmp_path / "damaged").damage


def test_memory_is_bounded_however_long_the_run(tmp_path: Path) -> None:
    """Ten times the steps take no more memory: a curve is thinned while it is read."""
    peaks = []
    for count in (20_000, 200_000):
        rows = [
            [[step, 2.0 + step % 7, 0.1, 0.0, 0] for step in range(first, first + 500)]
            for first in range(0, count, 500)
        ]
        events = (encoded(seq, "steps", {"step": 0, "rows": part, "extras": {}})[0] for seq, part in enumerate(rows))
        put(tmp_path, b"".join(events))
        del rows
        tracemalloc.start()
        (curve,) = read_run(tmp_path).curves
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert curve.num_steps == count
        assert len(curve.points) <= 2_000
    # The reader holds one chunk of 2^20 bytes and its split into lines, whatever the length of the file.
    assert peaks[1] < 16 * 2**20
