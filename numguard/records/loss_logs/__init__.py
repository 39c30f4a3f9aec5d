"""Loss logs as other tools write them: one file per format, each hostile until it is parsed."""

from .loss_log import LossLog as LossLog
from .loss_log import NumberColumn as NumberColumn
from .reading import read_loss_log as read_loss_log
