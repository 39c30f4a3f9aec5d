"""A fit as plotly draws it. The only file of this room that imports plotly, when a figure is asked for."""

from typing import TYPE_CHECKING, Any

import numpy as np

from numguard.errors import UsageError
from numguard.scaling.prediction_bands import band_half_widths

if TYPE_CHECKING:
    from numguard.scaling.fit_result import Fit

_LEVEL = 0.9


def fit_figure(fitted: "Fit") -> Any:
    """Return a figure of observations, fitted values and the 90 % interval at each, over the size of the run.

    Raises
    ------
    UsageError
        plotly is not installed.
    """
    try:
        import plotly.graph_objects as graph
    except ImportError:
        raise UsageError("plotly is not installed; run: pip install 'numguard-torch[cli]'") from None
    problem = fitted.problem
    with np.errstate(all="ignore"):
        centre = problem.law.log_value(fitted.theta[None], problem.design)[0]
        drawn = problem.law.log_value(fitted.draws, problem.design)
    half = band_half_widths(
        fitted.uncertainty, centre, drawn, problem.design.size - fitted.uncertainty.largest_size, _LEVEL
    )
    order = np.argsort(problem.design.size, kind="stable")
    size, value = np.exp(problem.design.size[order]), np.exp(centre[order])
    low, high = np.exp((centre - half)[order]), np.exp((centre + half)[order])
    off = np.isin(problem.row[order], fitted.influence.outliers)
    figure = graph.Figure()
    figure.add_trace(
        graph.Scatter(
            x=np.concatenate([size, size[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            fill="toself",
            line={"width": 0},
            hoverinfo="skip",
            name=f"{_LEVEL:.0%} interval",
            opacity=0.4,
        )
    )
    figure.add_trace(graph.Scatter(x=size, y=value, mode="lines", name=problem.law.formula))
    observed = np.exp(problem.target[order])
    for name, rows, symbol in (("observed", ~off, "circle"), ("outlier", off, "x")):
        if rows.any():
            figure.add_trace(
                graph.Scatter(
                    x=size[rows],
                    y=observed[rows],
                    mode="markers",
                    marker={"symbol": symbol},
                    text=[f"row {row}" for row in problem.row[order][rows]],
                    name=name,
                )
            )
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "size"}},
        yaxis={"type": "log", "title": {"text": problem.law.response}},
        title={"text": f"{problem.law.name}: {problem.law.formula}"},
    )
    return figure
