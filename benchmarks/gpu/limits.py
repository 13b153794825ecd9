"""What the GPU can do at most: bandwidth, arithmetic, launches, a barrier, torch's own products.

A process of ``gpu_suite.py --only limits``; a barrier that does not end ends with it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from gpt2fast.bench.request_loop import open_replies, send
from gpu import rows, timing

NODES = 60  # kernels of a step of GPT-2 124M, of five a layer
_COPY_BYTES = 2 << 30
_READ_ELEMENTS = 1 << 30  # float32
_READ_BLOCK = 4096
_MATMUL = 8192
_BARRIERS = 2000
_BEST_OF = (4, 8, 16)  # programs a multiprocessor

Rows = Iterator[rows.Row]


@triton.jit
def read_kernel(
    x_ptr,  # (tiles * BLOCK,) float32
    out_ptr,  # (programs,) float32
    tiles,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """out[p] = sum of every programs-th tile from the p-th."""
    acc = tl.zeros((BLOCK,), tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        acc += tl.load(x_ptr + tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK))
    tl.store(out_ptr + tl.program_id(0), tl.sum(acc, axis=0))


@triton.jit
def empty_kernel(
    out_ptr,  # (programs,) int32
    DEPENDENT: tl.constexpr,  # noqa: N803
):
    """A program stores a word: the least that a compiler leaves standing."""
    if DEPENDENT:
        gdc_launch_dependents()
        gdc_wait()
    tl.store(out_ptr + tl.program_id(0), 1)


@triton.jit
def barrier_kernel(
    arrived_ptr,  # () int32, zero
    rounds,
):
    """``rounds`` barriers over all programs, which must all be on the chip."""
    programs = tl.num_programs(0)
    for i in range(rounds):
        tl.debug_barrier()
        tl.atomic_add(arrived_ptr, 1, sem="acq_rel", scope="gpu")
        wanted = (i + 1) * programs
        arrived = tl.load(arrived_ptr, volatile=True)
        while arrived < wanted:
            arrived = tl.load(arrived_ptr, volatile=True)
        tl.debug_barrier()


def copy_bandwidth() -> Rows:
    """Bytes read and written a second by a copy from one buffer to another."""
    x = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    yield _rate("copy bandwidth", lambda: y.copy_(x), 2.0 * _COPY_BYTES)


def read_bandwidth() -> Rows:
    """Bytes read a second by a sum, the best of several numbers of programs."""
    x = torch.empty(_READ_ELEMENTS, dtype=torch.float32, device="cuda").random_(0, 3)
    want = float(sum(part.sum(dtype=torch.float64) for part in x.split(1 << 28)))
    best: rows.Row | None = None
    for each in _BEST_OF:
        programs = each * _multiprocessors()
        out = torch.full((programs,), float("nan"), device="cuda")
        launch = partial(
            read_kernel[(programs,)], x, out, len(x) // _READ_BLOCK, BLOCK=_READ_BLOCK, num_warps=8
        )
        launch()
        if float(out.double().sum()) != want:
            message = f"the sum is {float(out.double().sum())}, not {want}"
            yield rows.make_row("read bandwidth", status=rows.WRONG, message=message)
            return
        row = _rate("read bandwidth", launch, 4.0 * len(x), programs=programs)
        if best is None or row["p50"] < best["p50"]:
            best = row
    assert best is not None
    yield best


def matmul_rate() -> Rows:
    """Operations a second of a large product of random numbers."""
    for dtype in (torch.bfloat16, torch.float16):
        a, b = (torch.randn(_MATMUL, _MATMUL, device="cuda", dtype=dtype) for _ in range(2))
        c = torch.empty_like(a)
        figure = _figure(lambda a=a, b=b, c=c: torch.mm(a, b, out=c))  # type: ignore[misc]
        rate = 2.0 * _MATMUL**3 / figure["p50"]
        name = f"matmul {_MATMUL}^3 {str(dtype).removeprefix('torch.')}"
        text = f"{rate / 1e12:.0f}TF"
        yield rows.make_row(name, text=text, operations_per_second=rate, **figure)


def products() -> Rows:
    """torch's float16 product of one row with the matrices of GPT-2, from memory and not."""
    for name, width in (("gpt2", 768), ("gpt2-xl", 1600)):
        shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width),
                  (width, 50257))  # fmt: skip
        for inputs, outputs in shapes:
            size = 2.0 * inputs * outputs
            for memory in ("cold", "warm"):
                sets = timing.sets_for_cold(size) if memory == "cold" else 1
                weights = torch.randn(sets, outputs, inputs, device="cuda", dtype=torch.float16)
                x = torch.randn(1, inputs, device="cuda", dtype=torch.float16)
                figures, errors = timing.measure(
                    {"torch": [partial(F.linear, x, weight) for weight in weights]}
                )
                if errors:
                    raise errors["torch"]
                case, at = f"matvec {name} {memory}", f"{inputs}x{outputs}"
                yield _rate_row(case, vars(figures["torch"]), size, at, "torch")


def launches() -> Rows:
    """Microseconds a node of a graph of kernels that do nothing, with and without dependent
    launch."""
    capable = torch.cuda.get_device_capability() >= (9, 0)
    for programs in (1, _multiprocessors()):
        out = torch.zeros(programs, dtype=torch.int32, device="cuda")
        for dependent in (False, True):
            case = f"empty graph of {NODES}, {programs} programs"
            at = "dependent launch" if dependent else "plain"
            if dependent and not capable:
                message = "the GPU has no dependent launch"
                yield rows.make_row(case, at, status=rows.SKIPPED, message=message)
                continue
            options = {"launch_pdl": True} if dependent else {}
            launch = partial(
                empty_kernel[(programs,)], out, DEPENDENT=dependent, num_warps=1, **options
            )
            figures, errors = timing.measure({at: [launch] * NODES})
            if errors:
                raise errors[at]
            figure = vars(figures[at])
            text = f"{figure['p50'] * 1e6:.2f}us a node, {figure['p50'] * NODES * 1e6:.1f}us"
            yield rows.make_row(case, at, text=text, nodes=NODES, **figure)


def barrier() -> Rows:
    """Microseconds of a barrier over one program a multiprocessor, launched together."""
    programs = _multiprocessors()
    arrived = torch.zeros(1, dtype=torch.int32, device="cuda")

    def seconds(rounds: int) -> float:
        arrived.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        barrier_kernel[(programs,)](arrived, rounds, num_warps=4, launch_cooperative_grid=True)
        end.record()
        torch.cuda.synchronize()
        if int(arrived) != rounds * programs:
            raise RuntimeError(f"{int(arrived)} arrivals, not {rounds * programs}")
        return begin.elapsed_time(end) / 1e3

    seconds(2)
    each = sorted((seconds(_BARRIERS + 2) - seconds(2)) / _BARRIERS for _ in range(11))
    text = f"{each[5] * 1e6:.2f}us"
    yield rows.make_row(
        "grid barrier", f"{programs} programs", text=text, p20=each[2], p50=each[5], p80=each[8]
    )


def clocks_up() -> Rows:
    """No figure: what every process that times begins with."""
    timing.prepare()
    yield from ()


# What could leave the GPU in a bad state comes last.
CASES: tuple[Callable[[], Rows], ...] = (
    copy_bandwidth, read_bandwidth, matmul_rate, products, launches, barrier,
)  # fmt: skip


def main() -> None:
    """A row a line; a case that fails is a row, too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="begin no case after these")
    end = time.monotonic() + parser.parse_args().seconds
    replies = open_replies()
    for case in (clocks_up, *CASES):
        name = case.__name__.replace("_", " ")
        try:
            if time.monotonic() > end:
                send(replies, {"row": rows.skipped(name, 0, 5)})
                continue
            for row in case():
                send(replies, {"row": row})
        except Exception as error:
            row = rows.make_row(name, status=rows.ERROR, message=rows.describe(error))
            send(replies, {"row": row})


def _multiprocessors() -> int:
    return int(torch.cuda.get_device_properties(0).multi_processor_count)


def _figure(call: timing.Call) -> dict[str, Any]:
    figures, errors = timing.measure({"": [call]})
    if errors:
        raise errors[""]
    return vars(figures[""])


def _rate(case: str, call: timing.Call, moved: float, **fields: Any) -> rows.Row:
    return _rate_row(case, _figure(call), moved, **fields)


def _rate_row(
    case: str, figure: dict[str, Any], moved: float, at: str = "", system: str = "", **fields: Any
) -> rows.Row:
    rate = moved / figure["p50"]
    text = f"{figure['p50'] * 1e6:.1f}us " if moved < 1 << 30 else ""
    text += f"{rate / 1e9:.0f}GB/s"
    return rows.make_row(
        case, at, system, text, bytes_per_second=rate, bytes=moved, **figure, **fields
    )


if __name__ == "__main__":
    main()
