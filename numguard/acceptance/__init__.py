"""Behind ``numguard.audit``: public functions of torch on adversarial data, judged in child processes."""

from .audit_report import AuditReport as AuditReport
from .audit_report import merged as merged
from .audit_report import read_report as read_report
from .auditing import audit as audit
