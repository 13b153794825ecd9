"""``python -m gpt2fast.cli`` is the command ``gpt2fast``."""

import sys

from gpt2fast.cli import main

sys.exit(main())
