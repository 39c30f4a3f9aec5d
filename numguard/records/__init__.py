"""What a run leaves behind: events, their writer and reader, findings as files, accepted fingerprints."""

from .accepted import read_accepted as read_accepted
from .atomic_file import write_atomically as write_atomically
from .coverage import Coverage as Coverage
from .coverage import SiteCoverage as SiteCoverage
from .damage import Damage as Damage
from .event_log import EventLog as EventLog
from .event_log import next_attempt as next_attempt
from .finding_record import finding_fields as finding_fields
from .finding_record import write_finding as write_finding
from .log import Log as Log
from .loss_series import LossCurve as LossCurve
from .memory_log import MemoryLog as MemoryLog
from .memory_log import events_of as events_of
from .reader import iterate_events as iterate_events
from .reader import read_run as read_run
from .run_records import Event as Event
from .run_records import RunRecords as RunRecords
from .schema import EVENTS as EVENTS
from .schema import SCHEMA as SCHEMA
