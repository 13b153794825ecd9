"""The directory of work under way, and what it is of."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from gpt2fast.checkpoint import Checkpoint
from gpt2fast.checkpoint.digest import weights_digest
from gpt2fast.compress.calibration.splits import (
    SHARES,
    Sizes,
    Texts,
    split_texts,
    written_texts,
)
from gpt2fast.compress.options import CompressOptions
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.files.atomic import check_out, clear_all_abandoned
from gpt2fast.files.disk import make_directory
from gpt2fast.files.json_file import read_json_object, write_json
from gpt2fast.files.lock import exclusive

_LAYOUT = 2  # of a work directory; before it, work.json did not tell


def open_work(
    options: CompressOptions, checkpoint: Checkpoint, say: ProgressCallback, held: ExitStack
) -> tuple[Path, Texts]:
    """The work directory, made or gone on with, and the text in three parts. It is this process's
    alone until ``held`` is closed.

    Raises OptionError where it holds the work on another model, text, seed or number of threads or
    of a version of gpt2fast with another layout, or another process works in it.
    """
    length = min(options.sizes.length, checkpoint.config.n_positions)
    sizes = Sizes(length, *(options.sizes.of(part) for part in SHARES))
    texts = _read(options, checkpoint, sizes) if options.text else None
    work = options.work_directory
    identity = {
        "layout": _LAYOUT,
        "weights_sha256": weights_digest(checkpoint),
        "texts": None if texts is None else texts.key,  # the model's own follow from the seed
        "seed": options.seed,
        "num_threads": options.num_threads,  # which speeds depend on
    }
    record = work / "work.json"
    if not work.is_dir():
        check_out(work)
        make_directory(str(work), work, "--work" if options.work else "OUT.work")
    held.enter_context(exclusive(work))
    clear_all_abandoned(work)
    if not record.is_file():
        check_out(work)
        write_json(record, identity)
    elif (found := read_json_object(record)).get("layout") != _LAYOUT:
        raise OptionError(
            f"{work} holds the work of another version of gpt2fast, which cannot be gone on with; "
            "delete it, or choose another --work"
        )
    elif found != identity:
        raise OptionError(
            f"{work} holds the work on another model, text, seed or number of threads; delete it, "
            "or choose another --work"
        )
    if texts is None:
        texts = written_texts(checkpoint.path, sizes, options.seed, options.num_threads, work, say)
    return work, texts


def _read(options: CompressOptions, checkpoint: Checkpoint, sizes: Sizes) -> Texts:
    tokenizer = checkpoint.load_tokenizer()
    if tokenizer is None:
        raise CheckpointError(
            f"{checkpoint.path} has no tokenizer to read --text with; put its files there"
        )
    end = next(iter(checkpoint.config.eos_token_ids), None)
    return split_texts(options.text, tokenizer, end, sizes, options.verify_text)
