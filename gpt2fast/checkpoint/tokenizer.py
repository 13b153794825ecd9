"""The tokenizer of a checkpoint: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``.

Both give the byte-level BPE of Radford et al., "Language Models are Unsupervised Multitask
Learners" (2019), as a ``tokenizers.Tokenizer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.errors import CheckpointError
from gpt2fast.files.json_file import read_json_object, read_small_file

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

END_OF_TEXT = "<|endoftext|>"
_ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_DEFAULTS = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
_EXTRA_ROLES = ("additional_special_tokens", "extra_special_tokens")


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Raises CheckpointError, beginning with ``what``, for what the tokenizers library raises
    inside: bare Exceptions, and panics of its Rust code, which are no Exceptions."""
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:
        # The class cannot be imported: the extension that raises it makes it.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{what}: {error}") from error


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer in ``directory``; None when it has no tokenizer files.

    Truncation and padding that a ``tokenizer.json`` may carry are switched off: a prompt is never
    cut without a word. Raises CheckpointError naming the file that is damaged.
    """
    fast, vocab, merges = (directory / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
    if fast.is_file():
        return _from_tokenizer_json(fast)
    if not vocab.is_file() and not merges.is_file():
        return None
    for present, absent in ((vocab, merges), (merges, vocab)):
        if not absent.is_file():
            raise CheckpointError(f"{absent}: is missing; {present.name} is of no use without it")
    return _from_vocab_and_merges(directory, vocab, merges)


def _from_tokenizer_json(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    content = read_small_file(path)  # the library opens no path that is not UTF-8
    with library_errors(f"{path}: is not a valid tokenizer file"):
        tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_vocab_and_merges(directory: Path, vocab: Path, merges: Path) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    try:
        str(directory).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            f"{vocab}: the tokenizers library opens no path that is not UTF-8; rename the directory"
        ) from None
    read_json_object(vocab)  # its message names the place; the library's does not
    with library_errors(f"{vocab} and {merges.name}: are damaged"):
        model = models.BPE.from_file(
            str(vocab), str(merges), continuing_subword_prefix="", end_of_word_suffix=""
        )
    config = _Settings(directory)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=config.flag("add_prefix_space")
    )
    tokenizer.decoder = decoders.ByteLevel()
    for token, token_id in config.added_tokens():
        tokenizer.add_tokens([token])
        if token_id is not None and tokenizer.token_to_id(token.content) != token_id:
            raise CheckpointError(
                f"{directory}: added token {token.content!r} should have the id {token_id}, but "
                f"{tokenizer.token_to_id(token.content)} is the next free one; added tokens must "
                "follow the vocabulary without a gap"
            )
    _frame(tokenizer, config)
    return tokenizer


def _frame(tokenizer: Tokenizer, config: _Settings) -> None:
    """Put the begin and end tokens around a text where ``tokenizer_config.json`` asks for them."""
    from tokenizers.processors import TemplateProcessing

    bos = config.role("bos_token") if config.flag("add_bos_token") else None
    eos = config.role("eos_token") if config.flag("add_eos_token") else None
    if bos or eos:
        tokens = [(token, tokenizer.token_to_id(token)) for token in {bos, eos} if token]
        single = " ".join(part for part in (bos, "$A", eos) if part)
        tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=tokens)


class _Settings:
    """The small files that may stand beside ``vocab.json``; newer ones supersede older ones."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = self._read("tokenizer_config.json")
        self._decoder = self._config.get("added_tokens_decoder")
        self._added: dict[str, Any] = {}
        self._roles = {**_DEFAULTS, **self._config}
        if not isinstance(self._decoder, dict | None):
            raise self._ill("added_tokens_decoder", self._decoder)
        if self._decoder is None:
            self._added = self._read("added_tokens.json")
            self._roles.update(self._read("special_tokens_map.json"))

    def flag(self, name: str) -> bool:
        value = self._config.get(name, False)
        if type(value) is not bool:
            raise self._ill(name, value)
        return value

    def role(self, name: str) -> str | None:
        value = self._roles.get(name)
        return None if value is None else self._token(name, value).content

    def added_tokens(self) -> list[tuple[AddedToken, int | None]]:
        """Tokens to add to the vocabulary, in order, with the id each must get (None: the next)."""
        special = self._special_tokens()
        tokens: list[tuple[AddedToken, int | None]] = []
        for content, token_id in sorted(self._numbered().items(), key=lambda item: item[1]):
            named = special.pop(content) if content in special else None
            tokens.append((named or self._plain(content, token_id), token_id))
        return tokens + [(token, None) for token in special.values()]

    def _numbered(self) -> dict[str, int]:
        if self._decoder is None:
            numbered = self._added
        else:
            numbered = {
                self._token(key, value).content: int(key) if key.isdecimal() else None
                for key, value in self._decoder.items()
            }
        for content, token_id in numbered.items():
            if type(token_id) is not int or not 0 <= token_id < 2**31:
                raise self._ill(f"the id of {content!r}", token_id)
        return numbered

    def _plain(self, content: str, token_id: int) -> AddedToken:
        if self._decoder is not None:
            return self._token(str(token_id), self._decoder[str(token_id)])
        return self._token(content, {"content": content, "special": False, "normalized": True})

    def _special_tokens(self) -> dict[str, AddedToken]:
        """By content. Two roles may share a token; the fuller description of it wins."""
        entries = [(name, self._roles.get(name)) for name in _ROLES]
        for name in _EXTRA_ROLES:
            more = self._roles.get(name) or []
            if not isinstance(more, list | dict):
                raise self._ill(name, more)
            items = more.values() if isinstance(more, dict) else more
            entries += [(name, item) for item in items]
        if self._decoder is not None:
            entries += self._decoder.items()
        tokens: dict[str, AddedToken] = {}
        for name, value in entries:
            if value is not None:
                token = self._token(name, value)
                fuller = isinstance(value, dict) or token.content not in tokens
                if token.special and fuller:
                    tokens[token.content] = token
        return tokens

    def _token(self, name: str, value: Any) -> AddedToken:
        from tokenizers import AddedToken

        if isinstance(value, str) and value:
            return AddedToken(value, special=True, normalized=False)
        if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
            keys = ("single_word", "lstrip", "rstrip", "normalized", "special")
            flags = {key: value[key] for key in keys if key in value}
            if all(type(flag) is bool for flag in flags.values()):
                return AddedToken(value["content"], **{"special": True, **flags})
        raise self._ill(name, value)

    def _read(self, name: str) -> dict[str, Any]:
        path = self._directory / name
        return read_json_object(path) if path.is_file() else {}

    def _ill(self, name: str, value: Any) -> CheckpointError:
        return CheckpointError(
            f"{self._directory}: {name} = {value!r} in the tokenizer's files makes no sense"
        )
