"""Calls of the C++ bindings with arguments that no caller should give.

Each call returns, or raises one of ``REFUSALS`` and changes nothing. The tests in
``tests/bindings`` make some with the package's extension; by itself this makes any number with any
build of it::

    python tests/support/hostile.py --extension build/csrc-address-undefined/python/_C.so --calls N

Sizes are tiny or absurd: what lies between would be granted, and take the machine's memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a script
from support.small_decoder import (
    SIZES,
    load_all,
    make_decoder,
    prompt_logits,
    tensor_shapes,
    values_of,
)

REFUSALS = (ValueError, TypeError, MemoryError, IndexError, BufferError)
EDGES = [
    -(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 16, 17, 255, 2**31 - 1, 2**31, 2**32 + 1,
    2**62, 2**63 - 1, 2**63, 2**64, 10**30,
]  # fmt: skip
INT32_EDGES = [edge for edge in EDGES if -(2**31) <= edge < 2**31]
FLOAT_EDGES = [0.0, -1.0, 1e-45, 1e20, -3e38, float("inf"), float("-inf"), float("nan")]
EDGES_OF = {"i": INT32_EDGES, "u": [0, 1, 127, 128, 255], "f": FLOAT_EDGES}
TYPES = ["int8", "uint8", "int16", "int32", "int64", "uint64", "float16", "float32", "float64",
         "bool", "object", "complex64"]  # fmt: skip
FORMATS = [("float32", 0), ("bfloat16", 0), ("int8", 32), ("int4", 32), ("int3", 64)]
KV_FORMATS = ["float32", "bfloat16", "int8"]
SENTINEL = 7.5
ROUND = 5000
WORDS = np.random.default_rng(0).integers(0, 2**32, 624, np.uint64)


def owned(tables: Any) -> bool:
    """Whether no block is named twice: two sequences that write to one race for it, which is their
    caller's mistake and harms nobody else."""
    return (
        not isinstance(tables, np.ndarray)
        or tables.size > 99
        or len(np.unique(tables)) == tables.size
    )


class Shared:
    """What threads call at the same time."""

    def __init__(self, module: Any, form: tuple[str, int], kv_format: str, team: int = 1) -> None:
        self.module = module
        self.decoder = load_all(make_decoder(module, form, kv_format=kv_format, num_threads=team))
        self.kernels = [module.Kernels(1), module.Kernels(team)]
        self.storages = [module.KvStorage(kv, 2, 5, 6) for kv in KV_FORMATS]
        self.pool = module.BlockPool(12, 4)
        self.sequences: list[int] = []
        self.expected = prompt_logits(self.decoder).tobytes()


class Hostile:
    """One caller."""

    def __init__(self, shared: Shared, random: Random) -> None:
        self.shared, self.module, self.random = shared, shared.module, random
        self.partial = make_decoder(self.module, ("int8", 32))
        self.calls = self.refused = 0
        self.actions: list[Callable[[], object]] = [
            *[self.step] * 8, *[self.copy_blocks] * 2, self.read_cache, *[self.load] * 4,
            self.inspect, self.construct, *[self.cache] * 4, *[self.matmul] * 3, self.pack,
            *[self.layer_norm] * 2, *[self.pool] * 6, *[self.draw] * 2, *[self.doubles] * 2,
            *[self.sample] * 3, *[self.sample_rows] * 3,
        ]  # fmt: skip

    def call(self) -> None:
        self.calls += 1
        try:
            self.random.choice(self.actions)()
        except REFUSALS:
            self.refused += 1

    def check(self) -> None:
        """The decoder is what it was."""
        assert prompt_logits(self.shared.decoder).tobytes() == self.shared.expected

    # Arguments

    def near(self, good: int) -> int:
        return good if self.random.randrange(12) else self.random.choice(EDGES)

    def small(self, most: int) -> int:
        return self.random.randint(0, most)

    def ints(self, values: Any, dtype: str = "int32") -> Any:
        return self.bent(np.array(values, dtype))

    def floats(self, *shape: int) -> Any:
        return self.bent(np.full(shape, 0.5, np.float32))

    def bent(self, array: Any) -> Any:
        """The array itself, or what is not quite it."""
        kind = self.small(99)
        if kind == 0:
            memory = np.zeros(array.nbytes + 1, np.uint8)
            odd = memory[1:].view(array.dtype).reshape(array.shape)
            odd[...] = array
            return odd
        if kind == 1:
            return np.repeat(array[..., None], 2, axis=-1)[..., 0]
        if kind == 2:
            array.flags.writeable = False
        if kind == 3:
            with np.errstate(all="ignore"):
                return array.astype(self.random.choice(TYPES))
        if kind == 4:
            return array.astype(array.dtype.newbyteorder())
        if kind == 5:
            return self.random.choice([array[None], array.reshape(-1), array[:0], array[..., :-1]])
        if kind == 6 and array.size:
            return np.broadcast_to(array.reshape(-1)[:1], (2**31, *array.shape[1:]))
        if kind == 7:
            return np.empty((0, *array.shape[1:-1], 2**40), array.dtype)
        if kind == 8:
            return self.random.choice([None, [], "text", 5, np.float32(1), b"1234"])
        if kind == 9:
            return np.asfortranarray(array)
        if kind in (10, 11, 12) and array.size:
            edges = {"i": INT32_EDGES, "u": [0, 1, 127, 128, 255], "f": FLOAT_EDGES}[
                array.dtype.kind
            ]
            array.reshape(-1)[self.small(array.size - 1)] = self.random.choice(edges)
        return array

    # Calls

    def step(self) -> None:
        count, blocks = self.small(3), SIZES["num_blocks"]
        lengths = [1 + self.small(4) for _ in range(count)]
        tokens = sum(lengths)
        rows = [self.small(max(tokens - 1, 0)) for _ in range(self.small(3))]
        logits = np.full((len(rows), SIZES["vocab"]), SENTINEL, np.float32)
        hidden = np.full((len(rows), SIZES["width"]), SENTINEL, np.float32)
        ids = [self.small(SIZES["vocab"] - 1) for _ in range(tokens)]
        contexts = [self.small(34) for _ in range(count)]
        tables = np.array(self.random.sample(range(blocks), count * 3)).reshape(count, 3)
        ints = (ids, np.cumsum([0, *lengths]), contexts, tables, rows)
        given = [self.bent(logits), self.random.choice([None, self.bent(hidden)])]
        before = logits.tobytes(), hidden.tobytes()
        try:
            arrays = [self.ints(values) for values in ints]
            if owned(arrays[3]):
                self.shared.decoder.step(*arrays, *given)
        except REFUSALS:
            assert before == (logits.tobytes(), hidden.tobytes()), "a refused step has written"
            raise

    def processing(self) -> Any:
        tokens = SIZES["vocab"]
        made = self.module.LogitsProcessing(
            bias=[(self.near(self.small(tokens - 1)), self.random.choice([0.5, *FLOAT_EDGES]))],
            repetition=self.random.choice([1.5, 1.5, 1.0, *FLOAT_EDGES]),
            presence=self.random.choice([0.5, 0.5, *FLOAT_EDGES]),
            frequency=self.random.choice([0.5, 0.5, *FLOAT_EDGES]),
            banned=self.ints([self.small(tokens - 1) for _ in range(self.small(3))]),
            min_tokens=self.near(self.small(2)),
        )
        made.see(self.ints([self.small(tokens - 1) for _ in range(self.small(9))]), False)
        made.see(self.ints([self.small(tokens - 1) for _ in range(self.small(9))]), True)
        return made

    def sampling(self, count: int) -> Any:
        def column(good: float, dtype: str) -> Any:
            edges = FLOAT_EDGES if dtype == "float32" else [0, 1, 7, 2**31 - 1]
            values = [good if self.small(30) else self.random.choice(edges) for _ in range(count)]
            return self.bent(np.array(values, dtype))

        return self.module.SamplingRows(
            column(0.7, "float32"), column(self.small(20), "int32"), column(0.9, "float32"),
            column(0.01, "float32"), column(5, "uint64"), column(0, "int32"), column(3, "int32"),
            [self.processing() if not self.small(3) else None for _ in range(count)],
        )  # fmt: skip

    def sample_rows(self) -> None:
        shape = self.small(3), self.random.choice([1, SIZES["vocab"], 70, 200])
        logits = np.linspace(-1, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
        if not self.small(9) and logits.size:
            logits[0, self.small(shape[1] - 1)] = self.random.choice(FLOAT_EDGES)
        tokens = self.module.sample(self.bent(logits), self.sampling(shape[0]))
        assert all(-4 < token < shape[1] for token in tokens.tolist())

    def sample(self) -> None:
        count, steps = 1 + self.small(2), self.near(1 + self.small(3))
        contexts = [self.small(30) for _ in range(count)]
        tables = np.array(self.random.sample(range(SIZES["num_blocks"]), count * 3))
        ids = [self.small(SIZES["vocab"] - 1) for _ in range(count)]
        ints = (ids, np.arange(count + 1), contexts, tables.reshape(count, 3), np.arange(count))
        flag = self.random.choice([None, self.module.StopFlag()])
        if flag is not None and self.small(1):
            flag.set()
        arrays = [self.ints(values) for values in ints]
        logits = self.bent(np.full((count, SIZES["vocab"]), SENTINEL, np.float32))
        stop = self.ints([self.small(SIZES["vocab"] - 1) for _ in range(self.small(2))])
        sampling = self.sampling(count + (not self.small(20)))
        if not owned(arrays[3]):
            return
        tokens, times = self.shared.decoder.sample(
            *arrays, logits, sampling, steps, stop, flag, bool(self.small(1))
        )
        assert tokens.shape == (len(arrays[4]), len(times))
        assert (tokens < SIZES["vocab"]).all()

    def copy_blocks(self) -> None:
        pairs = [(self.small(8), self.small(8)) for _ in range(self.small(3))]
        self.shared.decoder.copy_blocks(self.ints(np.array(pairs).reshape(-1, 2)))

    def read_cache(self) -> None:
        blocks = self.ints(np.array([self.small(8) for _ in range(self.small(3))], np.int32))
        length = self.near(16 * len(blocks))
        keys, values = self.shared.decoder.read_cache(self.small(2), blocks, length)
        assert keys.shape == values.shape
        assert keys.shape[1] == length

    def load(self) -> None:
        shapes = tensor_shapes(SIZES)
        if len(self.partial.missing()) < 4:
            self.partial = make_decoder(self.module, self.random.choice(FORMATS))
        name = self.random.choice([*shapes, "wte", ""])
        shape = [self.near(size) for size in shapes.get(name, [1])]
        data = values_of(name, shapes.get(name, [1])).reshape(-1)
        if not self.small(3):
            data[self.small(len(data) - 1)] = self.random.choice(FLOAT_EDGES)
        raw = self.bent(data.view(np.uint8))
        if self.small(5):
            self.partial.load(
                name, self.random.choice(["F32", "F32", "F16", "F64", "I8"]), shape, raw
            )
        else:
            self.partial.load_packed(name, raw)

    def inspect(self) -> None:
        name = self.random.choice([*tensor_shapes(SIZES), ""])
        decoder = self.random.choice([self.partial, self.shared.decoder])
        assert decoder.weight_bytes > 0
        self.random.choice([decoder.packed, decoder.vector])(name)

    def construct(self) -> None:
        sizes = dict(SIZES)
        for name in self.random.sample([*sizes], 2):
            if name == "layers":
                sizes[name] = [(self.near(2), self.near(9), self.random.choice(FLOAT_EDGES))]
            elif name == "epsilon":
                sizes[name] = self.random.choice(FLOAT_EDGES)
            elif name not in ("activation", "tied_head"):
                sizes[name] = self.random.choice(EDGES)
        threads = self.random.choice([1, 1, 1, 0, -1, 1025, 2**31 - 1, 2**31])
        made = make_decoder(self.module, num_threads=threads, **sizes)
        prompt_logits(made)  # refused: it has no weights

    def cache(self) -> None:
        module, kernels = self.module, self.random.choice(self.shared.kernels)
        if not self.small(7):
            kv, heads, size = self.random.choice(KV_FORMATS), self.near(2), self.near(5)
            module.KvStorage(kv, heads, size, self.random.choice(EDGES))
        storage = self.random.choice(self.shared.storages)
        tables = [[self.small(5) for _ in range(3)] for _ in range(2)]
        if self.small(1):
            tokens = 1 + self.small(3)
            keys, values = self.floats(tokens, 2, 5), self.floats(tokens, 2, 5)
            kernels.append(storage, self.ints(tables[0]), self.near(self.small(44)), keys, values)
        else:
            contexts = self.ints([self.small(44), self.small(44)])
            queries = self.floats(2, 1 + self.small(3), 2, 5)
            kernels.attend(storage, self.ints(tables), contexts, queries, 0.5)

    def matmul(self) -> None:
        kernels, form = self.random.choice(self.shared.kernels), self.random.choice(FORMATS)
        rows, inputs, outputs = 1 + self.small(5), 1 + self.small(70), 1 + self.small(40)
        packed = kernels.pack_matrix(np.full((outputs, inputs), 0.5, np.float32), *form)
        bias = self.random.choice([None, self.floats(outputs)])
        residual = self.random.choice([None, self.floats(rows, outputs)])
        group = self.near(form[1])
        kernels.matmul(
            self.floats(rows, inputs), self.bent(packed.copy()), form[0], group,
            self.near(outputs), bias, self.random.choice(["linear", "gelu", "xielu", "x"]),
            [0.5] * self.small(5), residual,
        )  # fmt: skip

    def pack(self) -> None:
        name, group = self.random.choice([*FORMATS, ("int9", 32)])
        weights = self.floats(1 + self.small(40), 1 + self.small(70))
        self.random.choice(self.shared.kernels).pack_matrix(weights, name, self.near(group))

    def layer_norm(self) -> None:
        rows, width = 1 + self.small(5), 1 + self.small(40)
        arrays = self.floats(rows, width), self.floats(width), self.floats(width)
        epsilon = self.random.choice([1e-5, *FLOAT_EDGES])
        self.random.choice(self.shared.kernels).layer_norm(*arrays, epsilon)

    def pool(self) -> None:
        pool, sequences = self.shared.pool, self.shared.sequences
        if not self.small(9):
            self.module.BlockPool(self.random.choice(EDGES), self.near(4))
        sequence = self.near(self.random.choice([*sequences, 1]))
        tokens = self.ints([self.small(2) for _ in range(self.small(9))])
        action = self.small(6)
        if action == 0:
            sequences.append(pool.create(tokens)[0])
        elif action == 1:
            pool.reserve(sequence, self.near(self.small(30)))
        elif action == 2:
            pool.commit(sequence, tokens)
        elif action == 3:
            sequences.append(pool.fork(sequence))
        elif action == 4:
            pool.truncate(sequence, self.near(self.small(12)))
        elif action == 5 or len(sequences) > 20:
            pool.free(sequence)
        else:
            table = self.ints(np.zeros((1 + self.small(2), 12)))
            pool.fill_block_tables(self.ints([sequence % 2**63], "int64"), table)

    def words(self) -> Any:
        return self.bent(WORDS.copy())

    def draw(self) -> None:
        shape = 1 + self.small(2), 1 + self.small(200)
        logits = self.bent(np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape))
        top_p = self.random.choice([1.0, 0.9, *FLOAT_EDGES])
        temperature = self.random.choice([1.0, *FLOAT_EDGES])
        top_k, least = self.near(1 + self.small(50)), self.near(1)
        self.module.draw_tokens(
            logits, temperature, top_k, top_p, least, self.words(), self.near(self.small(624))
        )

    def doubles(self) -> None:
        places = np.sort([self.small(2000) for _ in range(self.small(5))]).astype(np.int64)
        count = self.random.choice([2001, 2001, 0, 7, -1, 2**62, 2**63 - 1, 2**64])
        if not self.small(5) and len(places):
            places[self.small(len(places) - 1)] = self.random.choice([-(2**63), -1, 2**62])
        self.module.uniform_doubles(self.words(), self.near(self.small(624)), count, places)


def run(module: Any, calls: int, threads: int, seed: int) -> tuple[int, int]:
    """Calls made and refused, in all: rounds of every instruction set and format in turn."""
    np.set_printoptions(threshold=0, edgeitems=1)  # pybind11's refusals show the arguments
    isas = module.available_isas()
    made = refused = 0
    while made < calls:
        os.environ["GPT2FAST_FORCE_ISA"] = isas[seed % len(isas)]
        callers = run_round(module, min(ROUND, calls - made), threads, seed)
        made += sum(caller.calls for caller in callers)
        refused += sum(caller.refused for caller in callers)
        seed += 1
    return made, refused


def run_round(module: Any, calls: int, threads: int, seed: int) -> list[Hostile]:
    shared = [
        Shared(module, FORMATS[(seed + i) % 5], KV_FORMATS[(seed + i) % 3], min(threads, 2))
        for i in range(2)
    ]
    # Two threads share objects.
    callers = [Hostile(shared[t // 2 % 2], Random(1000 * seed + t)) for t in range(threads)]
    failures: list[BaseException] = []

    def work(caller: Hostile) -> None:
        try:
            for call in range(-(-calls // threads)):
                caller.call()
                if call % 100 == 0:
                    caller.check()
        except BaseException as error:
            failures.append(error)

    team = [threading.Thread(target=work, args=(caller,)) for caller in callers]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    if failures:
        raise failures[0]
    return callers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--extension", type=Path)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.extension is not None:
        spec = importlib.util.spec_from_file_location("gpt2fast._C", args.extension)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["gpt2fast._C"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["gpt2fast._C"])
    from gpt2fast import _C

    calls, refused = run(_C, args.calls, args.threads, args.seed)
    print(f"{calls} calls, {refused} refused")


if __name__ == "__main__":
    main()
