"""``python -m agm.emulator`` is ``agm-emulator``."""

import sys

from agm.emulator.command import main

sys.exit(main())
