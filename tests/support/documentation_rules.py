"""What of the documentation is not run as it stands, and why.

A block or command that matches no rule runs; a rule that matches nothing is an error of the tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Directories of these names are the bundled model where a page runs: a directory wins over a model
# of the hub, so that "gpt2" needs no download.
MODELS = ("gpt2", "gpt2-xl", "distilgpt2", "compressed")
# Folders of text that pages take to be there.
TEXTS = ("notes", "chats", "books")

# Less of the same, in place of minutes: a regular expression and what stands for it.
LESS = {
    r"windows=64, length=512": "windows=4, length=64",
    r'(text=|read_text\()"texts/"': r'\1"texts/colorsys.py"',
    r"^(gpt2fast bench .*)": r"\1 --rounds 1 --starts 1 --tokens 4",
    r"^gpt2fast bench --random gpt2": "gpt2fast bench demo",
    r"^(gpt2fast train (?!.*--init).*)": r"\1 --n-layer 1 --n-embd 32 --n-head 2 --vocab-size 300",
    r"^(gpt2fast (?:train|distill) .*)": r"\1 --steps 2 --batch-size 2 --context 32",
    r"--max-tokens \d{5}": "--max-tokens 600",
    r"--depth 6": "--depth 2",
    r"--width 512": "--width 128",
}


@dataclass(frozen=True)
class Rule:
    """``pattern`` is searched for in a command or a block of Python. ``makes`` are directories that
    later commands of the page read: copies of the bundled model where the command is not run."""

    pattern: str
    reason: str
    makes: tuple[str, ...] = ()

    def matches(self, text: str) -> bool:
        """Whether this rule is about ``text``."""
        return re.search(self.pattern, text, re.MULTILINE) is not None


# Run by the slow tests alone.
SLOW = (
    Rule(r"^gpt2fast compress \w+ small ", "three minutes", ("small",)),
    Rule(r"^gpt2fast compress \w+ pruned ", "a minute"),
    Rule(r"^gpt2fast bench ", "half a minute a system"),
    Rule(r"^gpt2fast train notes", "trains a tokenizer and a model", ("my-model",)),
    Rule(r"^gpt2fast train chats", "trains a model"),
    Rule(r"^gpt2fast distill ", "trains a model"),
)

# Never run here.
NOT_RUN = (
    Rule(r"^pip install ", "installs; the extra that it names must exist"),
    Rule(r"^make ", "minutes to hours; the target must exist"),
    Rule(r"^python benchmarks/quality/", "hours; the file must exist"),
    Rule(r"^accelerate launch ", "needs several GPUs; tests/train has several processes"),
    Rule(r"^python -m gpt2fast\.evaluate ", "needs lm-eval; tests/evaluate/test_lm_eval.py"),
    Rule(r"lambada_test\.jsonl|wiki\.test\.raw", "needs a data set that is downloaded"),
    Rule(r"held-out\.py", "reads a past state of this library's source"),
    Rule(r"--student gpt2 ", "needs a student that is not its teacher"),
    Rule(r"^from optimum\.", "needs optimum; tests/export/test_optimum.py"),
    Rule(r"^from lm_eval\.", "needs lm-eval; tests/hf/test_lm_eval.py"),
)
