"""``python -m numguard`` is the ``numguard`` command."""

import sys

from numguard.cli import main

if __name__ == "__main__":
    sys.exit(main())
