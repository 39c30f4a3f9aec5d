"""The ``numguard`` command: one file for each verb."""

from .application import main as main
