"""What ``numguard bench`` measures where there is a GPU, and what it predicts where there is none."""

from .table import Table as Table
from .table import environment as environment
from .table import write_csv as write_csv
from .table import write_plot as write_plot
