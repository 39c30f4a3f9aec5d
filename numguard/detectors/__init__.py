"""One file per phenomenon over time: is the RUN healthy? The registry of all of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .alarm_budget import CALIBRATIONS as CALIBRATIONS
from .alarm_budget import AlarmBudget as AlarmBudget
from .alarm_budget import Calibration as Calibration
from .batch_order import batch_order_hash as batch_order_hash
from .monitor import CHANNELS as CHANNELS
from .monitor import LossMonitor as LossMonitor
from .off_trend import Trend as Trend
from .reference_run import ReferenceRun as ReferenceRun

#: Every detector by the name in ``Finding.evidence["detector"]``, with the kinds of finding that it makes.
DETECTORS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "nonfinite": ("nonfinite",),
        "loss_scale": ("loss_scale",),
        "loss_spike": ("loss_spike",),
        "gradient_lead": ("loss_spike",),
        "loss_shift": ("loss_shift", "loss_drift", "loss_plateau"),
        "loss_noise": ("loss_noise",),
        "off_trend": ("off_trend",),
        "hard_batch": ("hard_batch",),
        "same_order": ("degraded",),
    }
)
