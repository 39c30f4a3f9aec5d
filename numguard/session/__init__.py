"""The guard: puts the rooms together around a training loop."""

from .coverage import Coverage as Coverage
from .coverage import SiteCoverage as SiteCoverage
from .entrance import guard as guard
from .guarded_loop import Guard as Guard
from .overhead import Overhead as Overhead
