"""Two gloo ranks under torchrun: the same run as without numguard, the same steps armed, one file for each rank."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from numguard.records import read_run
from numguard.report import plain_report, summarise

SCRIPT = Path(__file__).with_name("data_parallel_run.py")
NUM_STEPS = 240


def _launch(run_dir: Path, budget: str) -> list[dict]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(run_dir), str(NUM_STEPS), budget], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"{run_dir}.{budget}.rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict], list[dict]]:
    run_dir = tmp_path_factory.mktemp("ddp") / "run"
    return run_dir, _launch(run_dir, "0.2"), _launch(run_dir, "off")


def test_ranks_arm_the_same_steps_and_check(guarded) -> None:
    _, ranks, _ = guarded
    assert ranks[0]["armed"] == ranks[1]["armed"] != []
    assert all(rank["num_checks"] > 50 for rank in ranks)
    assert ranks[0]["findings"] == ranks[1]["findings"] == []


def test_guarded_run_is_bitwise_the_bare_run(guarded) -> None:
    _, ranks, bare = guarded
    for with_guard, without in zip(ranks, bare, strict=True):
        assert with_guard["losses"] == without["losses"]
        assert with_guard["weights"] == without["weights"]


def test_one_file_per_rank_is_merged(guarded) -> None:
    run_dir, _, _ = guarded
    records = read_run(run_dir)
    assert records.ranks == (0, 1)
    assert records.num_missing_ranks == 0
    assert len(list((run_dir / "events").glob("*.jsonl"))) == 2


def test_report_names_a_missing_rank(guarded, tmp_path: Path) -> None:
    run_dir, _, _ = guarded
    partial = tmp_path / "partial"
    (partial / "events").mkdir(parents=True)
    (partial / "manifest.json").write_bytes((run_dir / "manifest.json").read_bytes())
    (only,) = (run_dir / "events").glob("rank00000-*.jsonl")
    (partial / "events" / only.name).write_bytes(only.read_bytes())
    records = read_run(partial)
    assert records.missing_ranks == (1,)
    assert "rank 1" in plain_report(summarise(records)).lower()
