"""The program that the pool starts: it runs each batch of tasks in a fork of its own, which may die.

Tasks come as JSON lines on standard input, answers go as JSON lines to the pipe that standard output was. The fork
says which task it is about to run, so that what kills it has a name.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, TextIO

Task = Callable[[Mapping[str, Any]], Any]


def _say(out: TextIO, message: Mapping[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def run_batch(batch: Sequence[Mapping[str, Any]], tasks: Mapping[str, Task], out: TextIO) -> None:
    """Run tasks one after the other and say which, until one of them is past its deadline."""
    for number, task in enumerate(batch):
        if monotonic() > task["deadline"]:
            _say(out, {"late": len(batch) - number})
            return
        _say(out, {"at": number})
        try:
            answer = tasks[task["task"]](task["given"])
        except MemoryError as error:
            answer = {"failed": f"MemoryError: {error}"}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc(limit=-4)}
        _say(out, {"done": number, "answer": answer})


def serve(tasks: Mapping[str, Task], preparations: Mapping[str, Callable[[], object]] | None = None) -> None:
    """Answer batches until standard input ends.

    Parameters
    ----------
    preparations
        What runs before the first fork for a task: later ones share it.
    """
    ready: set[str] = set()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tasks print is not an answer
    _say(out, {"ready": os.getpid()})
    for line in sys.stdin:
        batch = json.loads(line)
        task = batch[0]["task"]
        if task not in ready and preparations and task in preparations:
            preparations[task]()
        ready.add(task)
        child = os.fork()
        if child == 0:
            try:
                run_batch(batch, tasks, out)
            finally:
                os._exit(0)
        _say(out, {"child": child})
        _, status = os.waitpid(child, 0)
        _say(out, {"ended": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    from numguard.acceptance.tasks import PREPARATIONS, TASKS, warm_up

    warm_up()
    serve(TASKS, PREPARATIONS)
