"""Collectives that are examined: what ranks noted before one, exchanged, against what it left on each of them."""

from .examination import examine as examine
from .examination import is_examinable as is_examinable
from .examination import skip as skip
