"""``python -m gpt2fast.evaluate``: lm-evaluation-harness' command, with the model "gpt2fast"."""

from __future__ import annotations

import sys

from gpt2fast.errors import GPT2FastError


def main() -> int:
    """Run the harness; 2 for what gpt2fast refuses."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import gpt2fast.evaluate.lm_eval  # noqa: F401 (registers the model)

        cli_evaluate()
    except GPT2FastError as error:
        print(f"gpt2fast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
