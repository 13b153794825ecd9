"""transformers' stopping criteria, with fast paths for the length limit and for EOS tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from gpt2fast.hf.generation.processors import has_custom
from gpt2fast.hf.generation.token_buffer import TokenBuffer
from gpt2fast.hf.generation.torch_threads import with_all_torch_threads


class StoppingCriteria:
    """``criteria`` of transformers. Length and EOS criteria are evaluated here if there are no
    others; otherwise all of them are called."""

    def __init__(self, criteria: Any) -> None:
        lengths = [each.max_length for each in criteria if type(each) is MaxLengthCriteria]
        tokens = [each.eos_token_id for each in criteria if type(each) is EosTokenCriteria]
        self.has_eos = any(hasattr(each, "eos_token_id") for each in criteria)
        self._max_length = min(lengths, default=np.inf)
        self._eos_tokens = {token for each in tokens for token in each.tolist()}
        self._has_custom = has_custom(criteria)
        self._all = None if len(lengths) + len(tokens) == len(criteria) else criteria

    def is_done(
        self, buffer: TokenBuffer, tokens: NDArray[np.int64], scores: Any
    ) -> NDArray[np.bool_]:
        """(B,): the sequences that end with their last token, one of ``tokens`` (B,)."""
        if self._all is not None:
            with buffer.writable_ids() as ids:
                call = partial(self._all, ids, scores)
                result = with_all_torch_threads(call) if self._has_custom else call()
            # A custom criterion may return numbers; transformers' loop uses their last bit (`& ~`).
            done: NDArray[np.bool_] = result.cpu().numpy().astype(np.int64) % 2 == 1
            return done
        if buffer.length >= self._max_length:
            return np.ones(len(tokens), np.bool_)
        return np.array([token in self._eos_tokens for token in tokens.tolist()])
