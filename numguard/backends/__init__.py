"""What reads tensors: one file per capability, which picks Triton, the native twin or torch and NumPy."""

from .checksum import replica_checksum as replica_checksum
from .dot import inner_product as inner_product
from .selection import engage as engage
from .selection import prepare as prepare
from .statistics import Statistics as Statistics
from .statistics import tensor_statistics as tensor_statistics
from .update_health import UpdateHealth as UpdateHealth
from .update_health import observed_updates as observed_updates
