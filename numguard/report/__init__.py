"""Reports from records alone: what happened, what to do, and what was not checked."""

from .causes import Cause as Cause
from .on_call import Answer as Answer
from .page import write_html as write_html
from .plain import plain_report as plain_report
from .summary import RunSummary as RunSummary
from .summary import summarise as summarise
