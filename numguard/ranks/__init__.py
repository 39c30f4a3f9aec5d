"""Many ranks as one run: who this rank is, and which steps all of them arm."""

from .agreement import Agreement as Agreement
from .agreement import AloneAgreement as AloneAgreement
from .agreement import agreement_for as agreement_for
from .identity import Rank as Rank
from .identity import this_rank as this_rank
from .schedule import Schedule as Schedule
from .schedule import interval_for as interval_for
from .schedule import is_armed as is_armed
