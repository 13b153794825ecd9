"""Byte-level BPE tokenizers: trained on a corpus, and written as a Hugging Face directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from gpt2fast.errors import OptionError
from gpt2fast.files.atomic import staged_file
from gpt2fast.files.json_file import write_json

END_OF_TEXT = "<|endoftext|>"
_NUM_BYTES = 256
_FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json", "added_tokens.json"),
    *("tokenizer_config.json", "special_tokens_map.json"),
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) with END_OF_TEXT as id 0.

    Raises OptionError if ``vocab_size`` has no room for the bytes, or if the text is too small to
    give that many tokens.
    """
    if vocab_size <= _NUM_BYTES:
        raise OptionError(f"--vocab-size {vocab_size} is not valid: give at least {_NUM_BYTES + 1}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise OptionError(
            f"the text gives {tokenizer.get_vocab_size()} tokens, fewer than --vocab-size "
            f"{vocab_size}: give more text or a smaller vocabulary"
        )
    return tokenizer


def write_tokenizer(
    tokenizer: Tokenizer, directory: Path, context: int, end_of_text: str | None
) -> None:
    """Write ``tokenizer.json`` and the files by which transformers loads it."""
    with staged_file(directory / "tokenizer.json") as stage:
        tokenizer.save(str(stage))
    special = {name: end_of_text for name in ("bos_token", "eos_token", "unk_token") if end_of_text}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],  # no token types, which few take
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    write_json(directory / "tokenizer_config.json", config)


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy the tokenizer files that a fine-tuned model brought along."""
    for name in _FILES:
        if (source / name).is_file():
            with staged_file(directory / name) as stage:
                shutil.copyfile(source / name, stage)
