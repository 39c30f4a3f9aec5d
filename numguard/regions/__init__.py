"""Whole regions of a program against float64: each operator right, the sequence of them wrong."""

from .instability import RegionVerdict as RegionVerdict
from .instability import judge_form as judge_form
from .instability import judge_recording as judge_recording
from .recording import Recording as Recording
from .reference_forms import REFERENCE_FORMS as REFERENCE_FORMS
