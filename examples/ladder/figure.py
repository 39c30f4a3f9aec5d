"""The ladder as one SVG file: the law and its prediction, and the target's curve in its band."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.ladder.logs import Log
from numguard import scaling

_WIDTH, _HEIGHT = 460, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 34, 46
_BLUE, _GREY, _RED, _BAND = "#1f5fa8", "#6b6b6b", "#b3261e", "#cfe0f3"
_NUM_PLACES: Final = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of logarithmic axes.

    Parameters
    ----------
    shift
        Of the whole panel to the right, in pixels.
    x_range, y_range
        Smallest and largest value shown.
    """

    shift: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """Return a horizontal position in pixels."""
        share = math.log(value / self.x_range[0]) / math.log(self.x_range[1] / self.x_range[0])
        return self.shift + _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return a vertical position in pixels."""
        share = math.log(value / self.y_range[0]) / math.log(self.y_range[1] / self.y_range[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 1.5) -> str:
        """Return a line through points."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

    def area(self, x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> str:
        """Return the area between two lines."""
        border = [*zip(x, low, strict=True), *reversed([*zip(x, high, strict=True)])]
        places = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in border)
        return f'<polygon points="{places}" fill="{_BAND}"/>'

    def dot(self, x: float, y: float, colour: str, radius: float = 3.0) -> str:
        """Return a dot."""
        return f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" fill="{colour}"/>'

    def axes(self, title: str, x_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
        """Return frame, ticks and labels."""
        left, right = self.shift + _LEFT, self.shift + _WIDTH - _RIGHT
        bottom = _HEIGHT - _BOTTOM
        parts = [
            f'<path d="M{left} {_TOP}V{bottom}H{right}" fill="none" stroke="{_GREY}"/>',
            _text(left, _TOP - 14, title, anchor="start", size=13),
            _text((left + right) / 2, _HEIGHT - 8, x_label),
        ]
        for tick in x_ticks:
            parts.append(f'<path d="M{self.x(tick):.1f} {bottom}v4" stroke="{_GREY}"/>')
            parts.append(_text(self.x(tick), bottom + 17, _short(tick)))
        for tick in y_ticks:
            parts.append(f'<path d="M{left} {self.y(tick):.1f}h-4" stroke="{_GREY}"/>')
            parts.append(_text(left - 8, self.y(tick) + 4, f"{tick:g}", anchor="end"))
        return parts


def draw(path: Path, logs: Sequence[Log], last: scaling.Fit, verification: scaling.Verification, target: Log) -> None:
    """Write the figure.

    Parameters
    ----------
    path
        The SVG file.
    logs
        Of the rungs.
    last
        Fit of the final loss.
    verification
        Of the target.
    target
        Its log.
    """
    panels = [*_law_panel(logs, last, verification, target), *_curve_panel(verification, target)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {_HEIGHT}" width="{2 * _WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif">'
    )
    ground = f'<rect width="{2 * _WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, ground, *panels, "</svg>"]) + "\n", encoding="ascii")


def _law_panel(logs: Sequence[Log], last: scaling.Fit, verification: scaling.Verification, target: Log) -> list[str]:
    known = verification.registered
    compute = [log.rung.compute(log.rung.num_steps) for log in logs]
    end = target.rung.compute(target.rung.num_steps)
    panel = Panel(
        shift=0, x_range=(min(compute) / 2, end * 2), y_range=_around([log.final_loss for log in logs], known)
    )
    places = [min(compute) * (end / min(compute)) ** (n / _NUM_PLACES) for n in range(_NUM_PLACES + 1)]
    predicted = last.predict(C=places)
    return [
        *panel.axes(
            f"final held-out loss of {len(logs)} small runs, nats per byte, and what was registered",
            "floating-point operations of the run",
            _powers(*panel.x_range),
            _ticks(*panel.y_range),
        ),
        panel.line([*zip(places, [*predicted.value], strict=True)], _BLUE),
        *(panel.dot(c, log.final_loss, _GREY) for c, log in zip(compute, logs, strict=True)),
        panel.line([(end, known.low[-1]), (end, known.high[-1])], _BLUE, width=3.0),
        panel.dot(end, verification.outcome[-1], _RED, 4.5),
        _text(panel.x(end) - 9, panel.y(verification.outcome[-1]) + 18, "outcome", anchor="end", colour=_RED),
    ]


def _curve_panel(verification: scaling.Verification, target: Log) -> list[str]:
    known = verification.registered
    tokens = known.column("tokens")
    first = tokens[0] / 4
    block = max(len(target.losses) // 80, 1)
    smooth = [
        (target.tokens[end - 1], math.fsum(target.losses[end - block : end]) / block)
        for end in range(block, len(target.losses) + 1, block)
    ]
    shown = [(place, loss) for place, loss in smooth if place >= first]
    marks = [(target.tokens[step - 1], loss) for step, loss in target.marks]
    panel = Panel(shift=_WIDTH, x_range=(first, tokens[-1] * 1.1), y_range=_around([loss for _, loss in shown], known))
    return [
        panel.area(tokens, known.low, known.high),
        *panel.axes(
            f"the target: loss (grey), held-out loss (red), registered {known.level:.0%} band",
            "bytes seen",
            _steps(*panel.x_range),
            _ticks(*panel.y_range),
        ),
        panel.line([*zip(tokens, known.value, strict=True)], _BLUE),
        panel.line(shown, _GREY, width=1.0),
        *(panel.dot(place, loss, _RED) for place, loss in marks if place >= first),
    ]


def _around(losses: Sequence[float], known: scaling.Registered) -> tuple[float, float]:
    return min([*losses, *known.low]) / 1.04, max([*losses, *known.high]) * 1.04


def _powers(low: float, high: float) -> list[float]:
    return [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _steps(low: float, high: float) -> list[float]:
    found = [digit * 10.0**n for n in range(12) for digit in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]


def _ticks(low: float, high: float) -> list[float]:
    return [tick / 10 for tick in (10, 12, 15, 20, 25, 30, 40, 50) if low <= tick / 10 <= high]


def _short(value: float) -> str:
    return f"{value / 1e6:g}M" if 1e5 <= value < 1e9 else f"{value:.0e}".replace("e+", "e")


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{text}</text>'
