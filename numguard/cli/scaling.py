"""``numguard scaling``: fit, predict, register, verify, from a table of runs."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from numguard import scaling
from numguard.cli.mistakes import BAD_USAGE
from numguard.cli.run_table import numbers, read_table
from numguard.errors import UsageError
from numguard.report.inert_text import inert

LAWS: Final[dict[str, scaling.Law]] = {
    "power": scaling.PowerLaw(),
    "power-no-floor": scaling.PowerLaw(floor=False),
    "chinchilla": scaling.ChinchillaLaw(),
    "data-constrained": scaling.DataConstrainedLaw(),
    "annealing": scaling.AnnealingLaw(),
    "multi-power": scaling.MultiPowerLaw(),
    "capability": scaling.CapabilityLaw(),
}
_LABELS: Final = frozenset({"curve"})
_DAMAGED: Final = 3

app = App(name="scaling", usage="Usage: numguard scaling COMMAND")

Law = Annotated[str, Parameter(help=f"Form to fit: {', '.join(LAWS)}.")]
Loss = Annotated[str, Parameter(help="Column of the losses.")]
Names = Annotated[
    list[str] | None,
    Parameter(negative=(), help="NAME=COLUMN where the file calls a column of the law otherwise."),
]
At = Annotated[
    list[str] | None,
    Parameter(negative=(), help="What to predict: N=7e9,D=2e12, once for each row; or a CSV file."),
]
Also = Annotated[list[str] | None, Parameter(negative=(), help="step=5000, once for each --at: a further column.")]
Level = Annotated[float, Parameter(help="Nominal coverage of the interval.")]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object instead of text.")]


@app.default
def explain(*words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]) -> int:
    """Predict a run from smaller ones, write the prediction down before it exists, and score it after.

    Each command has a page of its own: numguard scaling fit --help.
    """
    if words:
        raise UsageError(f"numguard scaling has no command {words[0][:40]!r}; there are fit, predict, register, verify")
    app.help_print([])
    return BAD_USAGE


@app.command(name="fit")
def fit_runs(
    runs: Path, /, *, law: Law = "power", loss: Loss = "loss", column: Names = None, json: AsJson = False
) -> int:
    """Fit a law to a table of runs: parameters with intervals, and what to distrust.

    Exits with 0, with 2 for bad input, and with 3 if rows of the table could not be used.

    Parameters
    ----------
    runs
        CSV file with a header, one run a row.
    """
    fitted, damage = _fitted(runs, law, loss, column)
    content = _fit_content(fitted, damage)
    print(_json(content) if json else _fit_text(fitted, content))
    return _told(runs, damage)


@app.command(name="predict")
def predict_run(
    runs: Path,
    /,
    *,
    at: At = None,
    law: Law = "power",
    loss: Loss = "loss",
    column: Names = None,
    level: Level = 0.9,
    json: AsJson = False,
) -> int:
    """Predict runs that are larger than those of a table, with intervals.

    Exits with 0, with 2 for bad input, and with 3 if rows of the table could not be used.

    Parameters
    ----------
    runs
        CSV file with a header, one run a row.
    """
    fitted, damage = _fitted(runs, law, loss, column)
    places = _places(fitted.law, at)
    found = fitted.predict(level=level, **places)
    rows = [
        {
            **{name: values[row] for name, values in places.items()},
            "value": float(found.value[row]),
            "low": float(found.low[row]),
            "high": float(found.high[row]),
            "distance": float(found.distance[row]),
        }
        for row in range(len(found.value))
    ]
    if json:
        print(_json({"level": level, "response": fitted.law.response, "rows": rows, "warnings": [*fitted.warnings]}))
    else:
        for one in rows:
            where = ", ".join(f"{name}={inert(_short(one[name]), 40)}" for name in places)
            print(
                f"{where}: {fitted.law.response} {one['value']:.6g}, {level:.0%} interval {one['low']:.6g} to "
                f"{one['high']:.6g}, {one['distance']:.3g} times the largest fitted"
            )
        _print_warnings(fitted.warnings)
    return _told(runs, damage)


@app.command(name="register")
def register_prediction(
    registry: Path,
    runs: Path,
    /,
    *,
    name: str,
    at: At = None,
    law: Law = "power",
    loss: Loss = "loss",
    column: Names = None,
    also: Also = None,
    level: Level = 0.9,
    note: str = "",
    json: AsJson = False,
) -> int:
    """Predict as ``predict`` does, and write it into a registry before the run exists.

    Prints the receipt: keep it outside of the registry. Exits with 0, with 2 for bad input, and with 3 if rows of the
    table could not be used.

    Parameters
    ----------
    registry
        JSON file of predictions; made if there is none.
    runs
        CSV file with a header, one run a row.
    name
        Of the prediction.
    note
        Kept with it.
    """
    fitted, damage = _fitted(runs, law, loss, column)
    places = _places(fitted.law, at)
    further = _pairs(also or [], "--also")
    known = scaling.register(registry, fitted, name=name, level=level, note=note, also=further, **places)
    if json:
        print(_json(_registered_content(known)))
    else:
        print(f"registered {inert(known.name, 200)} at {known.time} in {inert(registry, 400)}")
        for row, value in enumerate(known.value):
            where = ", ".join(f"{column}={_short(values[row])}" for column, values in known.columns.items())
            print(f"  {where}: {value:.6g}, {known.level:.0%} interval {known.low[row]:.6g} to {known.high[row]:.6g}")
        _print_warnings(fitted.warnings)
        print(f"receipt: {known.hash}")
    return _told(runs, damage)


@app.command(name="verify")
def verify_prediction(
    registry: Path,
    /,
    *,
    outcome: Annotated[float | None, Parameter(help="The loss that the run reached; kept in the registry.")] = None,
    name: str | None = None,
    receipt: str | None = None,
    json: AsJson = False,
) -> int:
    """Score a registered prediction by the outcome of the run.

    Exits with 0 if the outcome is inside of the interval, 1 if it is not, and 2 if the registry was changed after it
    was written, is none, or holds no outcome and none is given.

    Parameters
    ----------
    registry
        JSON file of predictions.
    name
        Which one; may be left out where there is one.
    receipt
        Hash that was printed when it was registered.
    """
    found = scaling.verify(registry, outcome, name=name, receipt=receipt)
    if json:
        content = {
            "ok": found.ok,
            "outcome": [*found.outcome],
            "rows": [*found.rows],
            "inside": [*found.inside],
            "relative_error": [*found.relative_error],
            "log_score": [*found.log_score],
            "time": found.time,
            "prediction": _registered_content(found.registered),
        }
        print(_json(content))
    else:
        print(inert(found))
    return 0 if found.ok else 1


def _fitted(runs: Path, law: str, loss: str, column: Sequence[str] | None) -> tuple[scaling.Fit, Sequence[str]]:
    """Return the fit of a table, and which of its rows could not be used."""
    form = _law(law)
    table = read_table(runs)
    renamed = _names(column or [])
    possible = (*form.columns, *form.optional_columns)
    unknown = [name for name in renamed if name not in possible]
    if unknown:
        raise UsageError(f"{law} has no column {unknown[0]!r}; it has {', '.join(possible)}")
    wanted = {name: renamed.get(name, name) for name in form.columns}
    for name in form.optional_columns:
        if name in renamed or name in table.cells:
            wanted[name] = renamed.get(name, name)
    needs_loss = form.response == "loss"
    if needs_loss:
        wanted["loss"] = loss
    may_miss = frozenset({"loss"} if form.rows_may_miss else ())
    found = numbers(table, wanted, labels=_LABELS, may_miss=may_miss)
    values: dict[str, Any] = dict(found.values)
    return scaling.fit(form, values.pop("loss", None), **values), found.damage


def _law(name: str) -> scaling.Law:
    if name not in LAWS:
        raise UsageError(f"no law is named {name[:40]!r}; there are {', '.join(LAWS)}")
    return LAWS[name]


def _names(pairs: Sequence[str]) -> dict[str, str]:
    parted = [pair.partition("=") for pair in pairs]
    broken = [pair for pair, (name, _, column) in zip(pairs, parted, strict=True) if not name or not column]
    if broken:
        raise UsageError(f"--column {broken[0][:40]!r} is not NAME=COLUMN; type for example --column C=flops")
    return {name: column for name, _, column in parted}


def _places(law: scaling.Law, at: Sequence[str] | None) -> dict[str, list[Any]]:
    """Return the rows to predict, from ``N=7e9,D=2e12`` words or from one CSV file."""
    example = ",".join(f"{name}=…" for name in law.columns)
    if not at:
        raise UsageError(f"nothing says what to predict; type --at {example}, or --at with a CSV file of these columns")
    if len(at) == 1 and "=" not in at[0]:
        table = read_table(Path(at[0]))
        wanted = {name: name for name in (*law.columns, *law.optional_columns) if name in table.cells}
        missing = [name for name in law.columns if name not in wanted]
        if missing:
            raise UsageError(f"{at[0]} has no column {missing[0]!r}; {law.name} needs {', '.join(law.columns)}")
        found = numbers(table, wanted, labels=_LABELS, may_miss=frozenset())
        if found.damage:
            raise UsageError(f"{at[0]}: {found.damage[0]}; every row that is predicted must be whole")
        return {name: list(values) for name, values in found.values.items()}
    return _pairs([word for one in at for word in one.split(",")], "--at")


def _pairs(words: Sequence[str], option: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            found.setdefault(name.strip(), []).append(float(text))
        except ValueError:
            raise UsageError(f"{option} {word[:40]!r} is not NAME=NUMBER; type for example {option} C=1e22") from None
    if len({len(values) for values in found.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in found.items())
        raise UsageError(f"{option} gives the columns different numbers of values ({lengths}); repeat all of them")
    return found


def _fit_content(fitted: scaling.Fit, damage: Sequence[str]) -> dict[str, Any]:
    intervals = {name: fitted.interval(name) for name in fitted.params}
    return {
        "law": fitted.law.name,
        "formula": fitted.law.formula,
        "source": fitted.law.source,
        "num_points": fitted.num_points,
        "objective": fitted.objective,
        "params": {
            name: {"value": value, "low": intervals[name].low, "high": intervals[name].high}
            for name, value in fitted.params.items()
        },
        "median_holdout_error": fitted.holdout.median_error,
        "data_hash": fitted.data_hash,
        "warnings": [*fitted.warnings],
        "num_unused_rows": len(damage),
    }


def _fit_text(fitted: scaling.Fit, content: Mapping[str, Any]) -> str:
    lines = [f"{content['law']}: {content['formula']}   ({content['source']})"]
    for name, one in content["params"].items():
        lines.append(f"  {name:<8} {one['value']:<12.6g} 90% interval {one['low']:.6g} to {one['high']:.6g}")
    lines.append(f"  {content['num_points']} points, objective {content['objective']:.4g}")
    error = content["median_holdout_error"]
    if error == error:
        lines.append(f"  left out and predicted from smaller ones: {error:.2%} off in the middle")
    lines += [f"  distrust: {warning}" for warning in fitted.warnings]
    return "\n".join(lines)


def _registered_content(known: scaling.Registered) -> dict[str, Any]:
    return {
        "name": known.name,
        "time": known.time,
        "receipt": known.hash,
        "level": known.level,
        "columns": {name: [*values] for name, values in known.columns.items()},
        "value": [*known.value],
        "low": [*known.low],
        "high": [*known.high],
        "distance": known.distance,
        "note": known.note,
    }


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"  distrust: {warning}")


def _told(runs: Path, damage: Sequence[str]) -> int:
    """Say in one line which rows were left out, and return the exit code."""
    if not damage:
        return 0
    rows = "1 row" if len(damage) == 1 else f"{len(damage)} rows"
    print(f"numguard: {inert(runs, 200)}: {rows} left out ({inert(damage[0], 300)})", file=sys.stderr)
    return _DAMAGED


def _json(content: Any) -> str:
    """Return strict JSON in ASCII; numbers that JSON has not become text."""
    return json.dumps(_plain(content), allow_nan=False, indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value - value != 0.0:
        return str(value)
    return value


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
