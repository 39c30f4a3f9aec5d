"""Every exception that numguard raises on purpose.

::

    NumguardError
      UsageError (ValueError)      the caller asked for something that does not exist or cannot be
      InputError (ValueError)      a file that was handed in is damaged, hostile or not what it should be
      GuardStateError (RuntimeError)  a call came at the wrong moment, for example ``step`` outside the block
      FindingError (RuntimeError)  a finding, raised because ``on_finding="raise"`` asked for it

A finding is never an exception unless the user asked for it.
"""

from numguard.finding import Finding


class NumguardError(Exception):
    """Root of the tree."""


class UsageError(NumguardError, ValueError):
    """The caller asked for something that does not exist or cannot be."""


class InputError(NumguardError, ValueError):
    """A file that was handed in is damaged, hostile, or not what it should be.

    Parameters
    ----------
    path
        The file as the user named it.
    place
        Where in it: a line, a byte offset, a key. Empty for the whole file.
    reason
        What is wrong there, in one line.
    """

    def __init__(self, path: object, place: str, reason: str) -> None:
        self.path, self.place, self.reason = str(path), place, reason
        super().__init__(": ".join(part for part in (self.path, place, reason) if part))


class GuardStateError(NumguardError, RuntimeError):
    """A call came at the wrong moment."""


class FindingError(NumguardError, RuntimeError):
    """A finding that was to be raised.

    Parameters
    ----------
    finding
        The finding itself; also the ``finding`` attribute.
    """

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(str(finding))
