"""Predictions written down before the run that they are about, and scored after it."""

import datetime
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from numguard.errors import InputError, UsageError
from numguard.scaling.fit_result import Fit
from numguard.scaling.registry_chain import Chain, sealed
from numguard.scaling.registry_entries import Registered, Verification, registered_of, verification_of
from numguard.scaling.registry_file import read_chain, rewriting

_LARGEST_LEVEL: Final = 0.999
_LONGEST_NAME: Final = 200
_ALONG_RUN: Final = ("step", "tokens")


def register(
    path: str | Path,
    fit: Fit | Sequence[Fit],
    *,
    name: str,
    level: float = 0.9,
    also: Mapping[str, ArrayLike] | None = None,
    note: str = "",
    **columns: ArrayLike,
) -> Registered:
    """Write a prediction into a registry, before the run that it is about.

    Parameters
    ----------
    path
        The registry, a JSON file; made if there is none. Earlier entries stay as they are.
    fit
        What predicts. A sequence holds one fit for each row of ``columns``, for a curve that is forecast mark by mark.
    name
        Of the prediction, once in a registry.
    level
        Nominal coverage of the interval.
    also
        Further columns by which a band is looked up, for example ``{"step": [...]}``, with a value for each row.
    note
        Kept with the entry.
    **columns
        Of the law, as in :meth:`Fit.predict`: one value for the end of a run, several for marks along it.

    Returns
    -------
    Registered
        What was written. Its ``hash`` is the receipt: keep it outside of the file (in a commit message, a ticket, the
        run's configuration), and :func:`verify` can prove that the file is the one you saw.

    Raises
    ------
    UsageError
        The name is taken, columns are missing or not usable, or a predicted interval is not finite.
    InputError
        The file is no registry, or was changed after it was written. It is left as it is.

    Notes
    -----
    Every entry holds the SHA-256 of the one before it and of itself (canonical JSON: sorted keys, no spaces), of the
    data behind the fit, and of the code that fitted. Changing, exchanging or leaving out an earlier entry breaks the
    chain. Cutting off the last entries, or computing the whole chain anew, does not: that is what the receipt is for.
    The file is written beside its place and renamed, under a lock.
    """
    _require_name(name)
    if not 0.0 < level <= _LARGEST_LEVEL:
        raise UsageError(f"level={level!r} is not a coverage; pass a share above 0 and up to {_LARGEST_LEVEL}")
    if not isinstance(note, str) or len(note) > 10_000:
        raise UsageError("note must be a text of at most 10,000 characters")
    content = {
        "kind": "prediction",
        "name": name,
        "level": float(level),
        **_forecast(fit, level, columns, also or {}),
        "code": {"numguard": _version(), "scaling": code_hash()},
        "note": note,
    }
    with rewriting(Path(path)) as file:
        if any(entry.content.get("name") == name for entry in file.chain.entries):
            raise UsageError(f"{str(path)!r} holds a prediction named {name!r} already; choose another name")
        entry = sealed(content, previous=file.chain.head, time=_now())
        file.append(entry)
    return registered_of(entry)


def verify(
    path: str | Path,
    outcome: float | Mapping[str, ArrayLike] | None = None,
    *,
    name: str | None = None,
    receipt: str | None = None,
    record: bool = True,
) -> Verification:
    """Score a registered prediction by what happened, and write the outcome behind it.

    Parameters
    ----------
    path
        The registry.
    outcome
        The value at the end of the run (compared with the last row of the prediction); or a mapping with ``"loss"``
        and one of the prediction's columns, for marks along the run; or None, to read an outcome that was recorded.
    name
        Which prediction; may be left out where there is one.
    receipt
        ``hash`` that :func:`register` returned. With it a registry that was rewritten from the start is found out too.
    record
        Write the outcome into the registry. The same outcome again changes nothing, another one is refused.

    Raises
    ------
    UsageError
        There is no such prediction, no outcome, or another outcome was recorded before.
    InputError
        The file is no registry, was changed after it was written, or does not have the receipt's entry.
    """
    place = Path(path)
    chain = read_chain(place)
    entry = _prediction(chain, place, name)
    if receipt is not None and entry.hash != receipt.strip().lower():
        raise InputError(
            place,
            f"prediction {entry.content['name']!r}",
            f"has the hash {entry.hash[:16]}…, not the receipt's {receipt[:16]}…: it is not what was registered",
        )
    registered = registered_of(entry)
    recorded = chain.outcome_of(registered.name)
    if outcome is None:
        if recorded is None:
            raise UsageError(
                f"no outcome of {registered.name!r} is recorded; pass the loss that the run reached, verify(…, 1.23)"
            )
        return verification_of(registered, recorded.content["outcome"], recorded.time)
    rows = _outcome_rows(registered, outcome)
    if recorded is not None:
        if recorded.content["outcome"] != rows:
            raise UsageError(
                f"another outcome of {registered.name!r} was recorded at {recorded.time}; "
                "call verify without an outcome to see it, or register a new prediction under another name"
            )
        return verification_of(registered, rows, recorded.time)
    time = _now()
    if record:
        content = {"kind": "outcome", "name": registered.name, "outcome": rows}
        with rewriting(place) as file:
            if file.chain.outcome_of(registered.name) is not None:
                raise UsageError(f"an outcome of {registered.name!r} was recorded meanwhile; call verify without one")
            file.append(sealed(content, previous=file.chain.head, time=time))
    return verification_of(registered, rows, time)


def registered(path: str | Path, name: str | None = None) -> Registered:
    """Return a prediction from a registry, for example for ``guard(trend=…)``.

    Parameters
    ----------
    path
        The registry.
    name
        Which one; may be left out where there is one.

    Raises
    ------
    UsageError
        There is no such prediction, or several and no name.
    InputError
        The file is no registry or was changed after it was written.
    """
    return registered_of(_prediction(read_chain(Path(path)), Path(path), name))


@cache
def code_hash() -> str:
    """Return the SHA-256 of the source of this room: which code made a prediction, whatever its version is called."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _forecast(
    fit: Fit | Sequence[Fit], level: float, columns: Mapping[str, ArrayLike], also: Mapping[str, ArrayLike]
) -> dict[str, Any]:
    """Return the rows of a prediction and what made them, in plain JSON values."""
    if not columns:
        raise UsageError("nothing says what is predicted; pass the law's columns, for example register(…, C=1e22)")
    both = set(columns) & set(also)
    if both:
        raise UsageError(f"{sorted(both)[0]!r} is a column of the law and stands in also= too; leave it out of also=")
    rows = {key: _row_values(key, values) for key, values in {**columns, **also}.items()}
    lengths = {key: len(values) for key, values in rows.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise UsageError(f"the columns of a prediction must have one length, and have {lengths}")
    num_rows = next(iter(lengths.values()))
    fits = [fit] if isinstance(fit, Fit) else list(fit)
    if not all(isinstance(one, Fit) for one in fits) or len(fits) not in (1, num_rows):
        raise UsageError(f"pass one Fit, or one for each of the {num_rows} rows; there are {len(fits)}")
    if isinstance(fit, Fit):
        found = fit.predict(level=level, **{key: rows[key] for key in columns})
        parts = [np.atleast_1d(part) for part in (found.value, found.low, found.high, found.distance)]
    else:
        single = [one.predict(level=level, **{key: rows[key][row] for key in columns}) for row, one in enumerate(fits)]
        parts = [np.asarray([getattr(one, part) for one in single]) for part in ("value", "low", "high", "distance")]
    value, low, high, distance = (np.asarray(part, dtype=np.float64) for part in parts)
    if not (np.isfinite([value, low, high]).all() and (low > 0).all() and (low < high).all()):
        raise UsageError("the predicted interval is not finite, so it is no prediction; predict nearer to the data")
    return {
        "columns": rows,
        "value": value.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "distance": float(distance.max()),
        "forms": [_form(one) for one in fits],
    }


def _form(fit: Fit) -> dict[str, Any]:
    return {
        "law": fit.law.name,
        "options": repr(fit.law),
        "formula": fit.law.formula,
        "source": fit.law.source,
        "params": {key: float(value) if math.isfinite(value) else None for key, value in fit.params.items()},
        "objective": float(fit.objective),
        "num_points": int(fit.num_points),
        "data_hash": fit.data_hash,
        "warnings": list(fit.warnings),
    }


def _row_values(name: str, values: ArrayLike) -> list[float]:
    try:
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise UsageError(f"column {name!r} is not numeric; pass a number, or a list of numbers") from None
    if array.ndim != 1 or not np.isfinite(array).all():
        raise UsageError(f"column {name!r} must be finite numbers in one row; it is {str(values)[:60]}")
    if name in _ALONG_RUN and (array < 0.0).any():
        raise UsageError(f"{name}={array.min():g} is no place of a run; pass values from 0 on, for example {name}=1000")
    return [float(value) for value in array]


def _outcome_rows(registered: Registered, outcome: float | Mapping[str, ArrayLike]) -> list[dict[str, float]]:
    """Return one mapping for each row that happened: its number in the prediction, and its loss."""
    if not isinstance(outcome, Mapping):
        return [{"row": len(registered.value) - 1, "loss": _positive(outcome)}]
    given = dict(outcome)
    losses = given.pop("loss", None)
    if losses is None or len(given) != 1:
        known = ", ".join(registered.columns)
        raise UsageError(f"an outcome along a run is 'loss' and one of {known}; it has {', '.join(outcome)}")
    ((axis, places),) = given.items()
    where = _row_values(axis, places)
    values = [_positive(value) for value in np.atleast_1d(np.asarray(losses)).tolist()]
    if len(values) != len(where):
        raise UsageError(f"the outcome has {len(where)} values of {axis} and {len(values)} of loss; pair them")
    marks = registered.column(axis)
    rows = []
    for place, value in zip(where, values, strict=True):
        near = [row for row, mark in enumerate(marks) if math.isclose(mark, place, rel_tol=1e-6)]
        if not near:
            raise UsageError(f"nothing was predicted at {axis}={place:g}; the marks are {_listed(marks)}")
        rows.append({"row": near[0], "loss": value})
    if len({row["row"] for row in rows}) != len(rows):
        raise UsageError(f"the outcome has two losses at one {axis}; pass one for each mark")
    return rows


def _prediction(chain: Chain, path: Path, name: str | None) -> Any:
    found = {entry.content["name"]: entry for entry in chain.entries if entry.content["kind"] == "prediction"}
    if not found:
        raise UsageError(f"{str(path)!r} holds no prediction; write one with numguard.scaling.register")
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        what = "holds several predictions" if name is None else f"holds no prediction named {name!r}"
        raise UsageError(f"{str(path)!r} {what}; pass name=, one of {_listed(list(found))}")
    return found[name]


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise UsageError(f"the outcome {str(value)[:40]!r} is not a number; pass the loss that the run reached")
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"the outcome {value} cannot be scored: a loss is finite and above 0")
    return float(value)


def _require_name(name: str) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"name={str(name)[:40]!r} is no name; pass 1 to {_LONGEST_NAME} printable characters")


def _listed(values: Sequence[object]) -> str:
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(texts[:6]) + (f", … ({len(texts)} in all)" if len(texts) > 6 else "")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version() -> str:
    try:
        return version("numguard-torch")
    except PackageNotFoundError:
        return "source tree"
