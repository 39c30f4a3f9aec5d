"""Rounding-error bounds, one file per family, and the judgement that rests on them."""
