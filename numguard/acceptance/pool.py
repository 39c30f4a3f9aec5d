"""A few child processes that run tasks: one that crashes, hangs or runs out of memory is a result like any other."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Any, Final, Self

import numguard

Given = Mapping[str, Any]
_ROOT: Final = Path(numguard.__file__).parents[1]
_LONGEST: Final = 4.0  # wall time over the allowed time: as slow as a machine may be that others use too
_IDLE: Final = 0.05  # of the wall time on the processor: less is a task that waits, not one that works
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one task.

    Parameters
    ----------
    given
        The task.
    value
        What it returned; None where it did not end.
    ended
        How it ended otherwise: ``"crash"``, ``"hang"``, ``"out_of_memory"``, ``"failed"``, or empty.
    reason
        The signal, the limit, or the error.
    """

    given: Given
    value: Any = None
    ended: str = ""
    reason: str = ""


class Pool:
    """Runs tasks by name in child processes.

    Parameters
    ----------
    num_workers
        Processes at the same time.
    seconds
        Processor time that one task may take. One that only waits may take as long.
    program
        Module that is run as the worker.
    """

    def __init__(self, num_workers: int, seconds: float, program: str = "numguard.acceptance.worker") -> None:
        self._program, self._seconds = program, seconds
        self._workers = [_Worker(program) for _ in range(max(1, num_workers))]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.close()

    def run(
        self,
        task: str,
        givens: Iterable[Given],
        *,
        batch_size: int = 1,
        deadline: float = float("inf"),
        advance: Callable[[Answer], object] | None = None,
        num_workers: int | None = None,
    ) -> tuple[list[Answer], int]:
        """Run tasks and return their answers in the order of completion, and how many were left out.

        Parameters
        ----------
        batch_size
            Tasks that share a fork; what crashes costs those behind it only a new one.
        deadline
            On the monotonic clock, which processes share: tasks that have not begun by then are left out.
        advance
            Called with each answer, from the threads of the pool one at a time.
        num_workers
            How many of the children take part; all of them by default.
        """
        waiting: queue.SimpleQueue[list[Given]] = queue.SimpleQueue()
        tasks = [{"task": task, "given": dict(given), "deadline": deadline} for given in givens]
        for begin in range(0, len(tasks), batch_size):
            waiting.put(list(tasks[begin : begin + batch_size]))
        answers: list[Answer] = []
        lock = threading.Lock()

        def enter(answer: Answer) -> None:
            with lock:
                answers.append(answer)
                if advance is not None:
                    advance(answer)

        def work(worker: "_Worker") -> None:
            while monotonic() < deadline:
                try:
                    batch: Sequence[Given] = waiting.get_nowait()
                except queue.Empty:
                    return
                while batch:
                    batch = worker.run(batch, self._seconds, enter)

        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in self._workers[:num_workers]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers, len(tasks) - len(answers)


class _Worker:
    """One child process, restarted whenever it is gone."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None

    def _start(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        if self._errors is not None:
            self._errors.close()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
        )
        if not self._read(self._process):
            raise RuntimeError(f"the audit's child process did not start: {self._last_words()}")
        return self._process

    def run(self, batch: Sequence[Given], seconds: float, enter: Callable[[Answer], None]) -> Sequence[Given]:
        """Run a batch; return what is left of it behind a task that did not end."""
        process = self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(batch) + "\n")
        process.stdin.flush()
        child, at, patience = 0, 0, _Patience(0, seconds)
        done, late = 0, False
        while message := self._read(process):
            patience.cancel()
            if "child" in message:
                child = message["child"]
            if "at" in message:
                at = message["at"]
            late = late or "late" in message
            if "done" in message:
                done = message["done"] + 1
                enter(_answer(batch[message["done"]]["given"], message["answer"]))
            if "ended" in message:
                if done == len(batch) or late:
                    return ()
                how = ("hang", f"more than {seconds:.0f} s") if patience.is_over else self._death(message["ended"])
                enter(Answer(given=batch[at]["given"], ended=how[0], reason=how[1]))
                return batch[at + 1 :]
            if child:
                patience = _Patience(child, seconds)
                patience.look_later(seconds)
        process.wait()
        enter(Answer(given=batch[at]["given"], ended="crash", reason="the worker ended"))
        return batch[at + 1 :]

    def _death(self, code: int) -> tuple[str, str]:
        words = self._last_words()
        if code == -signal.SIGKILL:
            return "out_of_memory", "killed by the system"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return "crash", f"{name} {words}".strip()

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else ""

    @staticmethod
    def _read(process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        message: dict[str, Any] = json.loads(line) if line else {}
        return message

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
        if self._errors is not None:
            self._errors.close()


def _answer(given: Given, value: Any) -> Answer:
    if isinstance(value, dict) and "failed" in value:
        memory = "allocate memory" in value["failed"] or value["failed"].startswith("MemoryError")
        return Answer(given=given, value=value, ended="out_of_memory" if memory else "failed", reason=value["failed"])
    return Answer(given=given, value=value)


class _Patience:
    """Kills a child process when its present task has had its time."""

    def __init__(self, child: int, seconds: float) -> None:
        self._child, self._seconds = child, seconds
        self._began, self._used_before = monotonic(), _processor_seconds(child)
        self._timer: threading.Timer | None = None
        self._is_cancelled = self.is_over = False

    def look_later(self, seconds: float) -> None:
        """Look after some seconds whether the task has had its time, and again if not."""
        self._timer = threading.Timer(seconds, self._look)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Let the child live."""
        self._is_cancelled = True
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._is_cancelled:
            return
        elapsed = monotonic() - self._began
        used = _processor_seconds(self._child) - self._used_before
        if _IDLE * elapsed < used < self._seconds and elapsed < _LONGEST * self._seconds:
            self.look_later(max(1.0, self._seconds - used))
            return
        self.is_over = True
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)


def _processor_seconds(process: int) -> float:
    """Return the processor time of a process so far, 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
