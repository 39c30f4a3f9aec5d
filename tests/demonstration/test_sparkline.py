"""A curve in one line keeps its shape."""

from numguard.demonstration import sparklines


def test_curves_share_one_scale() -> None:
    assert sparklines([[0, 1, 2, 3], [7, 7, 7, 7]], width=4) == ["▁▂▃▄", "████"]


def test_each_character_is_a_mean() -> None:
    assert sparklines([[0, 0, 0, 14, 7, 7, 7, 7]], width=2) == ["▁█"]


def test_short_and_flat_curves() -> None:
    assert sparklines([[2.0, 2.0]], width=48) == ["▁▁"]
