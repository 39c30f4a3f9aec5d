"""What ``numguard run`` needs: start a program as ``__main__`` and find its training steps from outside.

Torch is imported by :mod:`numguard.launching.steps` and :mod:`numguard.launching.supervision` alone, so that a mistake
on the command line is told at once, and a program runs without it under ``NUMGUARD=off``.
"""

from .programs import Program as Program
from .programs import prepare as prepare
