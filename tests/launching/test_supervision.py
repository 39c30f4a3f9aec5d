"""``numguard run`` puts a guard around an unmodified script: real scripts, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PREAMBLE = """
    import sys
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters())

    def loss_of(step):
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
        return torch.sum(model(x).square()) / 32

    def train(num_steps):
        for step in range(num_steps):
            optimizer.zero_grad()
            loss = loss_of(step)
            loss.backward()
            optimizer.step()
"""

# A wrong kernel, in the script because a child process has no other way to get one: every sum over 32 is doubled.
BROKEN = """
    import warnings
    right = torch.library.get_kernel("aten::sum", "CPU")
    library = torch.library.Library("aten", "IMPL")

    def wrong(keys, x, *, dtype=None):
        result = right.call_boxed(keys, x, dtype=dtype)
        return result * 2 if x.numel() == 32 else result

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl("sum", wrong, "CPU", with_keyset=True)
"""


def _script(folder: Path, *parts: str) -> None:
    (folder / "train.py").write_text("".join(textwrap.dedent(part) for part in parts))


def _start(folder: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "numguard", "run", *options, "train.py"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        command, cwd=folder, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _run(folder: Path, *options: str, **environment: str) -> tuple[int, str, str]:
    process = _start(folder, *options, **environment)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def _events(folder: Path, rank: int = 0) -> list[dict[str, object]]:
    files = sorted((folder / "log" / "events").glob(f"rank{rank:05d}-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_sound_script_is_checked_and_nothing_is_found(tmp_path: Path) -> None:
    _script(tmp_path, PREAMBLE, "train(6)\nprint('trained')\n")
    code, out, err = _run(tmp_path, "--budget", "none", "--exit-code", "--run-dir", "log")
    assert (code, out) == (0, "trained\n"), err
    assert err.splitlines()[-1].startswith("numguard: 6 steps, 0 errors, 0 warnings; ")
    assert _events(tmp_path)


def test_a_run_of_which_nothing_was_checked_says_so(tmp_path: Path) -> None:
    _script(tmp_path, PREAMBLE, "train(6)\n")
    code, _, err = _run(tmp_path, "--budget", "none", "--modules", "no such module")
    assert code == 0
    assert err.splitlines()[-1] == "numguard: 6 steps, 0 errors, 0 warnings, and nothing was checked"


def test_a_wrong_sum_is_found_at_its_line(tmp_path: Path) -> None:
    _script(tmp_path, PREAMBLE, BROKEN, "train(6)\n")
    code, _, err = _run(tmp_path, "--budget", "none", "--run-dir", "log")
    assert code == 0, "the code of the script passes through, findings or not"
    text = json.dumps(_events(tmp_path))
    line = next(n for n, t in enumerate((tmp_path / "train.py").read_text().splitlines(), 1) if "torch.sum" in t)
    assert "wrong_result" in text
    assert f"train.py:{line}" in text
    assert "1 error" in err


def test_a_known_defect_is_accepted_and_a_new_one_leaves_its_inputs(tmp_path: Path) -> None:
    _script(tmp_path, PREAMBLE, BROKEN, "train(4)\n")
    options = ("--budget", "none", "--modules", "^$", "--exit-code")
    code, _, err = _run(tmp_path, *options, "--run-dir", "log", "--capture", "capsule")
    assert code == 1, err
    (kept,) = (tmp_path / "log" / "findings").glob("*.safetensors")
    name = json.loads(kept.with_suffix(".json").read_text())["fingerprint"]
    (tmp_path / "known.toml").write_text(f'[[accepted]]\nfingerprint = "{name}"\nreason = "planted"\n')
    code, _, err = _run(tmp_path, *options, "--accept", "known.toml")
    assert code == 0, err


@pytest.mark.parametrize(("ending", "expected"), [("", 1), ("sys.exit(0)\n", 1), ("sys.exit(5)\n", 5)])
def test_exit_code_speaks_of_findings_only_where_the_script_ended_well(
    tmp_path: Path, ending: str, expected: int
) -> None:
    _script(tmp_path, PREAMBLE, BROKEN, "train(4)\n", ending)
    code, _, err = _run(tmp_path, "--budget", "none", "--exit-code")
    assert code == expected, err


def test_an_exception_of_the_script_passes_and_what_was_found_is_kept(tmp_path: Path) -> None:
    _script(tmp_path, PREAMBLE, BROKEN, "train(4)\nraise ValueError('mine')\n")
    code, _, err = _run(tmp_path, "--budget", "none", "--run-dir", "log")
    assert code == 1
    assert "ValueError: mine" in err
    assert "numguard/launching" not in err
    assert "wrong_result" in json.dumps(_events(tmp_path))


def test_a_signal_ends_the_script_as_it_would_alone(tmp_path: Path) -> None:
    _script(tmp_path, PREAMBLE, "train(3)\nprint('ready', flush=True)\ntrain(10**9)\n")
    process = _start(tmp_path, "--run-dir", "log")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert _events(tmp_path)


def test_a_script_that_does_not_train_is_told_so(tmp_path: Path) -> None:
    _script(tmp_path, "print('hello')\n")
    code, out, err = _run(tmp_path)
    assert (code, out) == (0, "hello\n")
    assert "nothing was checked" in err


def test_a_loop_without_optimizer_is_told_so(tmp_path: Path) -> None:
    _script(tmp_path, PREAMBLE, "for step in range(3):\n    loss_of(step).backward()\n")
    _, _, err = _run(tmp_path)
    assert "3 backward passes, but no call of Optimizer.step" in err


def test_a_mistake_in_the_options_is_told_before_the_program_starts(tmp_path: Path) -> None:
    _script(tmp_path, "print('begun')\n")
    for options, word in (
        (("--checks", "no_such_check"), "no_such_check"),
        (("--budget", "7"), "budget=7"),
        (("--accept", "absent.toml"), "absent.toml: no such file"),
        (("--capture", "capsule"), "needs a place for the capsules"),
        (("--modules", "("), "modules= got '('"),
    ):
        code, out, err = _run(tmp_path, *options)
        assert (code, out) == (2, "")
        assert word in err
        assert len(err.splitlines()) == 1


def test_the_script_trains_bitwise_as_it_does_alone(tmp_path: Path) -> None:
    _script(tmp_path, PREAMBLE, "train(20)\nprint([p.double().sum().item().hex() for p in model.parameters()])\n")
    _, guarded, _ = _run(tmp_path, "--budget", "none")
    _, bare, _ = _run(tmp_path, NUMGUARD="off")
    assert guarded == bare != ""


def test_two_ranks_behind_torchrun(tmp_path: Path) -> None:
    _script(
        tmp_path,
        """
        import torch.distributed as dist
        dist.init_process_group("gloo")
        """,
        PREAMBLE,
        """
        model = nn.parallel.DistributedDataParallel(model)
        train(6)
        dist.destroy_process_group()
        """,
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "numguard", "run", "--budget", "none", "--run-dir", "log", "train.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("numguard: 6 steps") == 1, "rank 0 alone speaks"
    assert _events(tmp_path, 0)
    assert _events(tmp_path, 1)
