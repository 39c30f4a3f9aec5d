"""Kernels compiled for GPUs that are not there, and judged by their machine code."""

from .compiling import compile_for as compile_for
from .gate import violations as violations
from .machine_code import MachineCode as MachineCode
from .prediction import Prediction as Prediction
from .prediction import predicted as predicted
from .targets import TARGETS as TARGETS
from .targets import Target as Target
