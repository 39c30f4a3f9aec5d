"""``numguard bench``: its tables, its files, its refusals. Nothing here depends on how fast anything is."""

from pathlib import Path

import pytest
from numguard_kernels.bench.table import Table

from numguard.backends import benchmark
from numguard.cli import main

MEASURED = Table(
    title="Measured on this CPU",
    header=("torch, one thread",),
    columns=("kernel", "dtype", "elements", "variant", "GB/s"),
    rows=(("sum", "float32", "10", "numguard", "1.5"), ("sum", "float32", "100", "numguard", "2.5")),
)


@pytest.fixture
def _a_small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "cpu_table", lambda: MEASURED)


@pytest.mark.usefixtures("_a_small_table")
def test_a_table_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv, plot = tmp_path / "table.csv", tmp_path / "plot.html"
    assert main(["bench", "--device", "cpu", "--csv", str(csv), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Measured on this CPU\ntorch, one thread\n")
    assert csv.read_text().splitlines()[2:4] == ["kernel,dtype,elements,variant,GB/s", "sum,float32,10,numguard,1.5"]
    assert "sum float32 numguard" in plot.read_text()


def test_the_cpu_table_compares_equal_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_SIZES", (100,))
    monkeypatch.setattr(benchmark, "_SECONDS_PER_CELL", 0.0)
    table = benchmark.cpu_table()
    assert len(table.rows) == 9
    assert {row[3].split(",")[0] for row in table.rows} == {"torch.sum", "numguard", "sum and norm in float64"}
    assert [row[6] for row in table.rows if row[3] == "torch.sum"] == ["1.00"] * 3


def test_a_prediction_says_that_it_is_one() -> None:
    pytest.importorskip("triton")
    from numguard_kernels.bench.unmeasured import predicted_table

    table = predicted_table(("sm_90",))
    assert "not measured" in table.title
    assert table.columns[-1] == "H100"
    assert all(0.0 < float(row[-1]) <= 1.0 for row in table.rows)


@pytest.mark.usefixtures("_a_small_table")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--device", "gpu"], "there is no GPU"),
        (["--device", "cpu", "--csv", "/nowhere/at/all.csv"], "could not be written"),
    ],
)
def test_mistakes_are_one_line(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
