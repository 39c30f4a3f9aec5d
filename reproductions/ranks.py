"""Several ranks for a play: this process is rank 0, the others are children, and gloo connects them.

Rank 0 stays in this process, so that the stage, its watcher and the fixtures are there as in any other play. The other
ranks get a copy of the stage with a watcher of their own, as every rank of a run has its own guard; what theirs find
comes back to the watcher of rank 0.
"""

import copyreg
import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

import torch
import torch.distributed as dist

from reproductions.stage import Stage
from reproductions.watchers import Guarded

PATIENCE: Final = timedelta(seconds=60)


class RankError(Exception):
    """Another rank failed; the message is its traceback."""


def _reduced(proxy: MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    return MappingProxyType, (dict(proxy),)


# Findings hold read-only mappings, which pickle refuses by itself.
copyreg.pickle(MappingProxyType, _reduced)


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Run ``function(rank, *args)`` on gloo ranks, the default process group being up, and return all results.

    Parameters
    ----------
    function
        Of the top level of a module, so that children can import it.
    world_size
        Number of ranks.
    *args
        The same on every rank, pickled for all but rank 0: stages, tensors, plain values. Every rank starts from the
        same random state.

    Returns
    -------
    list
        By rank; pickled on the way from all ranks but 0.

    Raises
    ------
    RankError
        If another rank raises or dies, with its traceback.
    """
    context = multiprocessing.get_context("forkserver")
    _start_server(context)
    threads = torch.get_num_threads()
    children: list[tuple[BaseProcess, Connection]] = []
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        meeting = Path(folder, "meeting")
        task = pickle.dumps((function, args))
        try:
            for rank in range(1, world_size):
                ours, theirs = context.Pipe(duplex=False)
                child = context.Process(target=_child, args=(theirs, meeting, rank, world_size, task), daemon=True)
                child.start()
                theirs.close()
                children.append((child, ours))
            other: BaseProcess
            try:
                results = [_rank(function, meeting, 0, world_size, args)]
            except Exception:
                for other, ours in children:  # a rank that failed first is the reason that this one could not go on
                    _answer(other, ours, patience=1.0, else_none=True)
                raise
            for other, ours in children:
                result, findings = _answer(other, ours, patience=PATIENCE.total_seconds())
                results.append(result)
                for watcher in _guards(args):
                    watcher.from_ranks.extend(findings)
            return results
        finally:
            torch.set_num_threads(threads)
            for other, ours in children:
                other.kill()
                other.join()
                ours.close()


def _start_server(context: ForkServerContext) -> None:
    """Start a process that has imported torch once and forks every rank in milliseconds, where it is not there yet."""
    context.set_forkserver_preload(["torch._dynamo", "torch.profiler", "numguard.session", "reproductions.ranks"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # pytest's own path, which the server would not know
    try:
        ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _rank(function: Callable[..., Any], meeting: Path, rank: int, world_size: int, args: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size, timeout=PATIENCE)
    try:
        result = function(rank, *args)
        dist.barrier()
        return result
    finally:
        dist.destroy_process_group()


def _child(answers: Connection, meeting: Path, rank: int, world_size: int, task: bytes) -> None:
    try:
        function, args = pickle.loads(task)
        result = _rank(function, meeting, rank, world_size, args)
        findings = [finding for watcher in _guards(args) for finding in watcher.findings]
        # Bytes: a tensor sent as such would be shared memory of a process that is about to end.
        answers.send_bytes(pickle.dumps(("done", (result, findings))))
    except BaseException:
        answers.send_bytes(pickle.dumps(("failed", traceback.format_exc())))


def _answer(child: BaseProcess, answers: Connection, *, patience: float, else_none: bool = False) -> Any:
    if not answers.poll(patience):
        if else_none:
            return None
        raise RankError(f"{child.name} did not answer within {patience:.0f} s")
    try:
        how, what = pickle.loads(answers.recv_bytes())
    except EOFError:
        child.join(1.0)
        raise RankError(f"{child.name} died with exit status {child.exitcode}") from None
    if how == "failed":
        raise RankError(f"{child.name}:\n{what}")
    return what


def _guards(args: tuple[Any, ...]) -> list[Guarded]:
    stages = [arg for arg in args if isinstance(arg, Stage)]
    return [stage.watcher for stage in stages if isinstance(stage.watcher, Guarded)]
