"""``python -m gpt2fast.evaluate``: lm-evaluation-harness' command, with the model "gpt2fast"."""

from __future__ import annotations

import sys
from importlib import import_module

from gpt2fast.errors import GPT2FastError


def main() -> int:
    """Run the harness; 2 for what gpt2fast refuses."""
    try:
        import_module("gpt2fast.evaluate.lm_eval")  # registers the model
        import_module("lm_eval.__main__").cli_evaluate()
    except GPT2FastError as error:
        print(f"gpt2fast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
