"""What ``numguard demo`` shows: a small GPT, and a build of PyTorch whose ``torch.sum`` is wrong now and then."""

from .broken_kernel import faulty_sum as faulty_sum
from .chances import budget_for as budget_for
from .corpus import standard_library_text as standard_library_text
from .sparkline import sparklines as sparklines
from .story import Phase as Phase
from .story import Story as Story
from .story import Telling as Telling
from .story import num_steps_within as num_steps_within
from .story import tell as tell
