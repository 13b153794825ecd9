"""``python -m gpt2fast.cli`` is the command ``gpt2fast``."""

import sys

try:
    from gpt2fast.cli import main

    code = main()
except KeyboardInterrupt:  # before main() could catch it
    code = 130
sys.exit(code)
