"""GPT-2's own tokenizer, and models of its vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tokenizer(gpt2_tokenizer_files: Path) -> Any:
    """With padding on the left, by the token that ends texts."""
    transformers = pytest.importorskip("transformers")
    found = transformers.GPT2TokenizerFast.from_pretrained(str(gpt2_tokenizer_files))
    found.pad_token = found.eos_token
    found.padding_side = "left"
    return found


@pytest.fixture(scope="session")
def speaking(tokenizer: Any) -> Any:
    """An accelerated language model of the tokenizer's vocabulary, and transformers' own."""
    from support.hf_pair import pair

    end = tokenizer.eos_token_id
    return pair(vocab_size=50257, bos_token_id=end, eos_token_id=end, pad_token_id=end)
