"""``python -m agm``: the ``agm`` command, where its script is not on the path."""

import sys

from agm.cli import main

if __name__ == "__main__":
    sys.exit(main())
