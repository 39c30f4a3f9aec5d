"""The loss curve with the findings on it, as plotly draws it. The only file that imports plotly."""

import html
import json
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from numguard.errors import UsageError
from numguard.finding import Finding
from numguard.records.loss_series import LossCurve
from numguard.records.trend_band import TrendBand
from numguard.report.inert_text import inert
from numguard.report.summary import RunSummary

try:
    import plotly.graph_objects as graph
    from plotly.offline import get_plotlyjs
except ImportError:
    raise UsageError("plotly is not installed; run: pip install 'numguard-torch[cli]'") from None

_MOST_MARKS = 300
_NUM_COLOURS = 4
_SYMBOLS = {"error": "x", "warning": "triangle-up", "notice": "circle-open"}


def library() -> str:
    """Return the source of plotly.js, to be written into the page so that it needs no network."""
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


def figure_json(summary: RunSummary) -> str:
    """Return the figure as JSON that is safe inside a ``script`` element.

    ``meta`` of a trace and ``name`` of a shape hold the name of a colour, which the page looks up in its style, so that
    light and dark are decided where the page is read.
    """
    num_attempts = len({curve.attempt for curve in summary.curves})
    names = [
        f"rank {curve.rank}" + (f", attempt {curve.attempt}" if num_attempts > 1 else "") for curve in summary.curves
    ]
    causes = [item for cause in summary.causes for item in (cause.lead, *cause.repeats, *cause.symptoms)]
    return drawn(
        curves=summary.curves,
        names=[f"loss, {name}" for name in names],
        findings=(*causes, *summary.notices),
        bands=summary.trends,
        shapes=_shapes(summary),
    )


def drawn(
    *,
    curves: Sequence[LossCurve],
    names: Sequence[str],
    findings: Sequence[Finding],
    bands: Sequence[TrendBand],
    shapes: Sequence[dict[str, Any]] = (),
) -> str:
    """Return loss curves with bands and marks on them, in the form of :func:`figure_json`.

    Parameters
    ----------
    curves, names
        Lines, and what each is called.
    findings
        Marked at the step at which they were caught, on the curve with their rank.
    bands
        Drawn below the curves; only those along steps.
    shapes
        Of plotly's, drawn below everything.
    """
    figure = graph.Figure()
    for band in bands:
        if band.axis == "step" and band.rows:
            figure.add_traces(_band(band))
    for index, (curve, name) in enumerate(zip(curves, names, strict=True)):
        figure.add_trace(_line(curve, index, name))
    for severity, symbol in _SYMBOLS.items():
        marks = [item for item in findings if item.severity == severity]
        trace = _marks(curves, marks[:_MOST_MARKS], severity, symbol)
        if trace is not None:
            figure.add_trace(trace)
    broken = _nonfinite_marks(curves)
    if broken is not None:
        figure.add_trace(broken)
    axis = {"showline": True, "ticks": "outside", "tickcolor": "rgba(128,128,128,.4)", "automargin": True}
    figure.update_layout(
        template=None,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        xaxis={"title": {"text": "step"}, **axis},
        yaxis={"title": {"text": "loss"}, **axis, **_heights(curves)},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        showlegend=True,
        shapes=list(shapes),
    )
    plain = figure.to_plotly_json()
    return _island({"data": plain["data"], "layout": plain["layout"]})


def _island(value: object) -> str:
    text = json.dumps(value, allow_nan=False, default=list, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _heights(curves: Sequence[LossCurve]) -> dict[str, Any]:
    """Return the range of the losses, so that a band that is far away does not flatten them."""
    losses = [loss for curve in curves for _, loss in curve.points]
    low, high = min(losses, default=0.0), max(losses, default=0.0)
    margin = 0.05 * (high - low)
    return {"range": [low - margin, high + margin]} if 0.0 < margin < float("inf") else {}


def _band(band: TrendBand) -> list[Any]:
    """Return the two ends of a band with the area between them, and its middle."""
    places, middle, low, high = ([row[part] for row in band.rows] for part in range(4))
    name = inert(band.name, 60)
    said = name if band.level is None else f"{name}, {band.level:.0%} band"
    edge = {"mode": "lines", "line": {"width": 0}, "meta": "band", "hoverinfo": "skip"}
    return [
        graph.Scatter(x=places, y=low, name=said, legendgroup=name, showlegend=False, **edge),
        graph.Scatter(x=places, y=high, name=html.escape(said), legendgroup=name, fill="tonexty", **edge),
        graph.Scatter(
            x=places,
            y=middle,
            mode="lines",
            line={"width": 1, "dash": "dash"},
            name=html.escape(f"{name}, middle"),
            legendgroup=name,
            showlegend=False,
            meta="band-middle",
            hovertemplate="step %{x}<br>expected %{y:.6g}<extra></extra>",
        ),
    ]


def _line(curve: LossCurve, index: int, name: str) -> Any:
    return graph.Scatter(
        x=[step for step, _ in curve.points],
        y=[loss for _, loss in curve.points],
        mode="lines" if len(curve.points) > 1 else "markers",
        line={"width": 1.5},
        name=html.escape(inert(name, 80)),
        meta=f"curve-{index % _NUM_COLOURS}",
        hovertemplate="step %{x}<br>loss %{y:.6g}<extra></extra>",
    )


def _loss_near(curves: Sequence[LossCurve], finding: Finding) -> float | None:
    """Return the recorded loss next to where a finding was caught, on its own rank where that has a curve."""
    step = finding.first_caught_step
    drawn = [curve for curve in curves if curve.points]
    if step is None or not drawn:
        return None
    own = [curve for curve in drawn if curve.rank == finding.rank] or drawn
    covering = [curve for curve in own if curve.first_step <= step <= curve.last_step] or own
    points = covering[-1].points
    index = min(bisect_left(points, (step, float("-inf"))), len(points) - 1)
    return points[index][1]


def _marks(curves: Sequence[LossCurve], findings: Sequence[Finding], severity: str, symbol: str) -> Any:
    placed = [(item, loss) for item in findings if (loss := _loss_near(curves, item)) is not None]
    if not placed:
        return None
    return graph.Scatter(
        x=[item.first_caught_step for item, _ in placed],
        y=[loss for _, loss in placed],
        mode="markers",
        marker={"size": 11 if severity == "error" else 9, "symbol": symbol, "line": {"width": 1}},
        name=severity,
        meta=severity,
        text=[_hover(item) for item, _ in placed],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(finding: Finding) -> str:
    lines = (
        f"step {finding.first_caught_step}: {finding.kind}",
        inert(f"{finding.op} {finding.module}".strip(), 90),
        inert(finding.location or "", 90),
        f"rank {finding.rank}",
    )
    return "<br>".join(html.escape(line) for line in lines if line)


def _nonfinite_marks(curves: Sequence[LossCurve]) -> Any:
    found = [(curve, step, value) for curve in curves for step, value in curve.nonfinite]
    if not found:
        return None
    heights = [loss for curve in curves for _, loss in curve.points]
    top = max(heights, default=1.0)
    return graph.Scatter(
        x=[step for _, step, _ in found],
        y=[top] * len(found),
        mode="markers",
        marker={"size": 7, "symbol": "line-ns-open", "line": {"width": 2}},
        name="loss not finite",
        meta="error",
        text=[f"step {step}: loss {value} (rank {curve.rank})" for curve, step, value in found],
        hovertemplate="%{text}<extra></extra>",
    )


def _shapes(summary: RunSummary) -> list[dict[str, Any]]:
    """Return the stretch that is not to be trusted, from the last clean step on, and a line where it was caught."""
    grave = [cause for cause in summary.causes if cause.stop and cause.lead.first_caught_step is not None]
    if not grave or not summary.curves:
        return []
    last = max(curve.last_step for curve in summary.curves)
    first = min(curve.first_step for curve in summary.curves)
    cleans = [first if cause.last_clean_step is None else cause.last_clean_step for cause in grave]
    caught = sorted({cause.lead.first_caught_step for cause in grave if cause.lead.first_caught_step is not None})
    upright = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "name": "error"}
    stretch = {**upright, "type": "rect", "x0": min(cleans), "x1": last, "opacity": 0.07, "line": {"width": 0}}
    lines = [
        {**upright, "type": "line", "x0": step, "x1": step, "opacity": 0.6, "line": {"width": 1, "dash": "dot"}}
        for step in caught[:_MOST_MARKS]
    ]
    return [stretch, *lines]
