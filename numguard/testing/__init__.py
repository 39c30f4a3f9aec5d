"""What tests of users and of numguard itself build on; ``numguard.testing.strategies`` needs Hypothesis."""

from .assertions import assert_accurate as assert_accurate
from .faults import Fault as Fault
from .faults import KernelCall as KernelCall
from .faults import faulty_kernel as faulty_kernel
