"""A continuation of a context as tokens, cut where lm-evaluation-harness cuts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2fast.errors import OptionError
from gpt2fast.evaluate.windows import Window

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of ``context``, and those that ``continuation`` adds to them.

    Spaces at the end of the context are moved to the continuation, as the tokens of GPT-2 begin
    with theirs. The two are encoded as one text and cut behind as many tokens as the context has
    alone.
    """
    plain = context.rstrip()
    continuation = context[len(plain) :] + continuation
    before = tokenizer.encode(plain, add_special_tokens=False).ids
    whole = tokenizer.encode(plain + continuation, add_special_tokens=False).ids
    return tuple(before), tuple(whole[len(before) :])


def continuation_window(
    context: tuple[int, ...], continuation: tuple[int, ...], positions: int, group: int
) -> Window:
    """The window that predicts ``continuation``, the context cut from the left to ``positions``.

    Raises ``OptionError`` where the continuation does not fit, or one of the two is empty.
    """
    if not context or not continuation:
        raise OptionError("a context and a continuation need at least one token each")
    if len(continuation) > positions:
        raise OptionError(
            f"a continuation of {len(continuation)} tokens exceeds the context of {positions}"
        )
    return Window((*context, *continuation)[-positions - 1 :], len(continuation), group)
