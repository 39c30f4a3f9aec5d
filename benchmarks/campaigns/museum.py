"""The museum's catalogue page: every reproduced bug, how numguard finds it, and what else would have.

Run ``python -m benchmarks.campaigns.museum``; it runs the reproductions' own tests, plays every bug once more under
what people use without numguard, and writes ``docs/reproductions.md``.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch

from benchmarks.campaigns.exhibits import Exhibit, Sight
from benchmarks.campaigns.museum_page import page
from reproductions.stage import Play, Stage, perform
from reproductions.watchers import AnomalyMode, FinitenessChecks, Guarded, LossRule


def _speaks(play: Play, fixed: bool, tool: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if tool == "float64 run":
            return _differs(perform(play, fixed=fixed), perform(play, fixed=fixed, exact=True))
        watcher = {"anomaly mode": AnomalyMode, "finiteness": FinitenessChecks, "loss rule": LossRule}[tool]()
        try:
            perform(play, fixed=fixed, watcher=watcher)
        except RuntimeError as error:
            if isinstance(watcher, AnomalyMode) and "returned nan values" in str(error):
                return True
            raise
        return bool(getattr(watcher, "alarms", ()))


def _differs(stage: Stage, exact: Stage) -> bool:
    for name, value in stage.kept.items():
        try:
            torch.testing.assert_close(value, exact.kept[name].to(value.dtype))
        except AssertionError:
            return True
    return False


TOOLS = ("anomaly mode", "float64 run", "finiteness", "loss rule")
LEAST_SECONDS = 0.02  # of a play whose ratio means something


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _sights(play: Play) -> dict[str, Sight]:
    sights = {}
    bare = min(_seconds(lambda: perform(play, fixed=True)) for _ in range(2))
    for tool in TOOLS:
        began = time.perf_counter()
        fix = _speaks(play, True, tool)
        cost = (time.perf_counter() - began) / bare if bare > LEAST_SECONDS else float("nan")
        sights[tool] = Sight(bug=_speaks(play, False, tool), fix=fix, cost=cost)
    guards: dict[str, dict[str, Any]] = {"numguard, exhaustive": {}, "numguard, 1 %": {"budget": 0.01}}
    for name, options in guards.items():
        watcher = Guarded(**options)
        spent = _seconds(lambda watcher=watcher: perform(play, fixed=True, watcher=watcher))  # type: ignore[misc]
        cost = spent / bare if bare > LEAST_SECONDS else float("nan")
        sights[name] = Sight(bug=False, fix=bool(watcher.errors), cost=cost)
    return sights


def _exhibit(module: ModuleType, noted: Path) -> Exhibit:
    name = module.__name__.rpartition(".")[2]
    file = noted / f"{name}.json"
    return Exhibit(
        name=name,
        marker=dict(module.pytestmark.kwargs),
        story=module.__doc__ or "",
        finding=json.loads(file.read_text(encoding="utf-8")) if file.exists() else None,
        sights=_sights(module.play),
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the page; return 1 where a reproduction's own tests fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/reproductions.md"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "reproductions", "--museum", folder], check=False)
        exhibits = []
        for path in sorted(Path("reproductions").glob("test_*.py")):
            print(path.stem, file=sys.stderr)
            exhibits.append(_exhibit(importlib.import_module(f"reproductions.{path.stem}"), Path(folder)))
    text = page(
        exhibits, command="python -m benchmarks.campaigns.museum", date=time.strftime("%d %B %Y", time.gmtime())
    )
    options.output.write_text(text, encoding="utf-8")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
