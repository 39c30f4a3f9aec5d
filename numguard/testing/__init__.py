"""What tests of users and of numguard itself build on."""

from .faults import Fault as Fault
from .faults import KernelCall as KernelCall
from .faults import faulty_kernel as faulty_kernel
