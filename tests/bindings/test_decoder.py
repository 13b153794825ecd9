"""What ``_C.Decoder`` refuses, and that it is then what it was."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import _C
from support.small_decoder import (
    SIZES,
    load,
    load_all,
    make_decoder,
    prompt_logits,
    tensor_shapes,
    values_of,
)

INT8 = ("int8", 32)
MATRIX = "h.0.attn.c_attn.weight"


def first_logits(decoder: Any) -> bytes:
    return bytes(prompt_logits(decoder).tobytes())


def step(decoder: Any, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "token_ids": [3, 1, 4], "query_starts": [0, 1, 3], "context_lens": [0, 0],
        "block_tables": [[2], [5]], "logit_rows": [2], **changes,
    }  # fmt: skip
    arrays = {
        name: value if isinstance(value, np.ndarray) else np.array(value, np.int32)
        for name, value in given.items()
    }
    logits = np.full((len(arrays["logit_rows"]), SIZES["vocab"]), np.nan, np.float32)
    decoder.step(**arrays, logits=logits)
    return logits


@pytest.mark.parametrize(
    "sizes",
    [
        {"layers": [(2**19, 9, 1.0)], "head_size": 128, "num_blocks": 2**31 - 1},
        {"layers": [(2**14, 9, 1.0)] * 64, "head_size": 128, "num_blocks": 2**31 - 1},
        {"vocab": 2**30, "width": 2**26, "positions": 2**30},
        {"width": 2**26, "max_batch_tokens": 2**28},
    ],
    ids=["cache", "cache of all layers", "weights", "workspace"],
)
def test_what_no_memory_holds_is_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, MemoryError), match=r"2\^63 bytes|no memory for \d+ bytes"):
        make_decoder(_C, num_threads=1, formats={}, **{**SIZES, **sizes})


def test_a_cache_beyond_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"KV cache would take more than 2\^63 bytes"):
        _C.KvStorage("float32", 2**19, 256, 2**30)
    with pytest.raises(MemoryError, match="no memory for"):
        _C.KvStorage("float32", 2**12, 256, 2**30)
    assert _C.BlockPool(2**31 - 1, 2**31 - 1).num_free == 2**31 - 1


@pytest.mark.parametrize("name", ["vocab", "positions", "width", "head_size", "max_batch_tokens",
                                  "num_blocks", "num_threads"])  # fmt: skip
def test_sizes_are_counted_in_32_bits(name: str) -> None:
    bad_sizes = (0, -1, -(2**31), *([] if name == "num_blocks" else [2**31 - 1]))
    for bad in bad_sizes:
        with pytest.raises(ValueError, match=f"{name} = {bad}: sizes must be positive"):
            make_decoder(_C, **{name: bad})
    for layer in [(0, 9, 1.0), (2, 0, 1.0), (2**31 - 1, 9, 1.0), (2, 2**31 - 1, 1.0)]:
        with pytest.raises(ValueError, match="sizes must be positive"):
            make_decoder(_C, layers=[layer])
    for epsilon in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="epsilon"):
            make_decoder(_C, epsilon=epsilon)


def test_a_tensor_is_loaded_once() -> None:
    decoder = load_all(make_decoder(_C, INT8))
    before, norm = first_logits(decoder), decoder.vector("h.0.ln_1.weight")
    for name in tensor_shapes(SIZES):
        with pytest.raises(ValueError, match=f"'{name}' is loaded already"):
            load(decoder, name)
    panels = decoder.packed(MATRIX)
    with pytest.raises(ValueError, match=f"'{MATRIX}' is loaded already"):
        decoder.load_packed(MATRIX, panels.reshape(-1))
    assert first_logits(decoder) == before
    assert decoder.vector("h.0.ln_1.weight").tobytes() == norm.tobytes()


def test_a_refused_tensor_leaves_no_trace() -> None:
    """LayerNorm is balanced against a matrix that is taken, and by it alone."""
    want = first_logits(load_all(make_decoder(_C, INT8)))
    decoder = make_decoder(_C, INT8)
    for name, shape in tensor_shapes(SIZES).items():
        damaged = values_of(name, shape)
        damaged.reshape(-1)[-1] = np.nan
        with pytest.raises(ValueError, match=f"'{name}' holds NaN"):
            decoder.load(name, "F32", shape, damaged.tobytes())
        with pytest.raises(ValueError, match="shape"):
            decoder.load(name, "F32", [*shape, 1], damaged.tobytes())
        load(decoder, name)
    assert first_logits(decoder) == want


def test_threads_may_load_the_same_tensors() -> None:
    want = first_logits(load_all(make_decoder(_C, INT8)))
    decoder = make_decoder(_C, INT8)
    refused = []

    def work() -> None:
        for name in tensor_shapes(SIZES):
            try:
                load(decoder, name)
            except ValueError as error:  # noqa: PERF203
                refused.append(str(error))

    team = [threading.Thread(target=work) for _ in range(3)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert len(refused) == 2 * len(tensor_shapes(SIZES))
    assert all("is loaded already" in message for message in refused)
    assert first_logits(decoder) == want


def test_a_matrix_before_its_layer_norm_is_refused() -> None:
    decoder = make_decoder(_C, INT8)
    with pytest.raises(ValueError, match=r"balanced against 'h\.0\.ln_1\.\w+'; load that first"):
        load(decoder, MATRIX)
    for read in (decoder.packed, decoder.vector):
        with pytest.raises(ValueError, match="is not loaded yet"):
            read(MATRIX if read == decoder.packed else "ln_f.weight")


@pytest.mark.parametrize("shape", [[2**32, 2**32], [2**62, 3], [-1, -12], [-19, 12]])
def test_a_shape_beyond_memory_is_refused(shape: list[int]) -> None:
    with pytest.raises(ValueError, match=r"2\^63 bytes|negative size|bytes"):
        make_decoder(_C).load("wte.weight", "F32", shape, b"")


def test_a_step_needs_all_tensors() -> None:
    decoder = make_decoder(_C)
    *names, last = tensor_shapes(SIZES)
    for name in names:
        load(decoder, name)
    with pytest.raises(ValueError, match=f"step: tensors are not loaded yet: {last}"):
        step(decoder)
    with pytest.raises(ValueError, match=r"not loaded yet: .*, .* and \d+ more"):
        step(make_decoder(_C))
    load(decoder, last)
    assert np.isfinite(step(decoder)).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    decoder = load_all(make_decoder(_C))
    want = step(decoder).tobytes()
    none: Any = np.empty((0,), np.int32)
    no_tables = np.empty((0, 2**40), np.int32)
    wrong: list[tuple[dict[str, Any], str]] = [
        # No sequences: nothing would write the rows that are asked for.
        ({"token_ids": none, "query_starts": [0], "context_lens": none, "block_tables": no_tables},
         "logit row 2 of 0"),
        ({"context_lens": [2**31 - 1, 0]}, "would reach position 2147483647"),
        ({"context_lens": [-(2**31), 0]}, "would reach position"),
        ({"query_starts": [0, 2**31 - 1, 3]}, "would reach position"),
        ({"query_starts": [0, -(2**31), 3]}, "has no new token"),
        ({"query_starts": [0, 1]}, "disagree"),
        ({"block_tables": [[2], [9]]}, "names the cache block 9"),
        ({"block_tables": np.empty((2, 0), np.int32)}, "too narrow"),
        ({"token_ids": [3, 1, 19]}, "token id 19"),
        ({"token_ids": [0] * 25}, "25 token_ids exceed 24"),
        ({"logit_rows": [0] * 25}, "25 logit_rows exceed 24"),
        ({"logit_rows": [-1]}, "logit row -1"),
    ]  # fmt: skip
    for changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            step(decoder, **changes)
    for other in (np.array([3, 1, 4]), np.array([3, 0, 1, 0, 4, 0], np.int32)[::2]):
        with pytest.raises(TypeError):
            step(decoder, token_ids=other)
    step(decoder, token_ids=none, query_starts=[0], context_lens=none, block_tables=no_tables,
         logit_rows=none)  # fmt: skip
    assert step(decoder).tobytes() == want


def misaligned(array: Any) -> Any:
    odd = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    odd[...] = array
    return odd


def test_arrays_at_odd_addresses() -> None:
    decoder = load_all(make_decoder(_C))
    want = step(decoder).tobytes()
    ids = misaligned(np.array([3, 1, 4], np.int32))
    assert step(decoder, token_ids=ids).tobytes() == want
    ints = [[3], [0, 1], [0], [[0]], [0]]
    logits = misaligned(np.zeros((1, SIZES["vocab"]), np.float32))
    with pytest.raises(ValueError, match=r"logits .* not aligned"):
        decoder.step(*(np.array(values, np.int32) for values in ints), logits)
    kernels = _C.Kernels(1)
    x = np.ones((2, 16), np.float32)
    with pytest.raises(ValueError, match="x is not aligned"):
        kernels.layer_norm(misaligned(x), x[0], x[0], 1e-5)
    with pytest.raises(ValueError, match="words is not aligned"):
        _C.uniform_doubles(misaligned(np.zeros(624, np.uint64)), 0, 1, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="tokens is not aligned"):
        _C.BlockPool(4, 4).create(ids)


def test_copies_of_blocks_are_refused_or_made() -> None:
    decoder = load_all(make_decoder(_C))
    for pair in ([0, 9], [9, 0], [-1, 0], [0, -(2**31)]):
        with pytest.raises(ValueError, match="no cache block"):
            decoder.copy_blocks(np.array([[0, 1], pair], np.int32))
    decoder.copy_blocks(np.empty((0, 2), np.int32))
    step(decoder)
    # One after the other: the second copies what the first one wrote.
    decoder.copy_blocks(np.array([[5, 7], [7, 8], [8, 8]], np.int32))
    ints = [[6], [0, 1], [2], [[5]], [0]]
    rows = []
    for block in (5, 8):
        ints[3] = [[block]]
        rows.append(np.empty((1, SIZES["vocab"]), np.float32))
        decoder.step(*(np.array(values, np.int32) for values in ints), rows[-1])
    assert rows[0].tobytes() == rows[1].tobytes()


RACE = """
import threading
import numpy as np
from gpt2fast import _C

kernels, storage = _C.Kernels(1), _C.KvStorage("float32", 1, 64, 1)
table, context = np.zeros((1, 4000), np.int32), np.array([63000], np.int32)
queries = np.ones((1, 1, 1, 64), np.float32)
stop = threading.Event()

def change():
    while not stop.is_set():
        table[0] = 2**31 - 1
        context[0] = 2**30
        table[0] = 0
        context[0] = 63000

thread = threading.Thread(target=change)
thread.start()
try:
    for _ in range(300):
        try:
            kernels.attend(storage, table, context, queries, 1.0)
        except ValueError:
            pass
finally:
    stop.set()
    thread.join()
print("survived")
"""


def test_arrays_may_change_during_a_call() -> None:
    """What was checked is what the kernels work on."""
    done = subprocess.run(
        [sys.executable, "-c", RACE], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout == "survived\n", done.stderr[-2000:]
