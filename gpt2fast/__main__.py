"""``python -m gpt2fast`` is the command ``gpt2fast``."""

import sys

from gpt2fast.cli import main

sys.exit(main())
