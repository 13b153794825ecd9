"""Giving back what torch's parameters take, once the runner has packed them.

A parameter stays a tensor like any other: its bytes are a private map of a file, whose pages come
back when somebody looks. From a safetensors file ``from_pretrained`` makes such maps itself;
parameters that are in memory alone are written to a file without a name.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LEAST = 1 << 16  # bytes of a tensor that is worth it
_PAGEMAP = Path("/proc/self/pagemap")  # 8 bytes for each page of the process
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


class Attic:
    """Where the parameters of one network lie while the runner has them.

    Args:
        parameters: all that may be given to ``store``.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._sharing: dict[int, list[Tensor]] = {}
        for each in parameters:
            self._sharing.setdefault(each.data_ptr(), []).append(each)
        self._bytes = sum(some[0].nbytes for some in self._sharing.values())
        self._whole = {place for place, some in self._sharing.items() if _are_all(some)}
        self._file: BinaryIO | None = None
        self._is_full = not _PAGEMAP.exists()

    def store(self, parameter: Tensor) -> None:
        """Let the memory of ``parameter`` go where that is possible; its values stay."""
        if parameter.nbytes < _LEAST or parameter.device.type != "cpu" or self._is_full:
            return
        if not parameter.is_contiguous() or parameter.is_shared():
            return
        first, last = _whole_pages(parameter)
        try:
            is_of_file = not _has_own_pages(first, last)
        except OSError:  # a system that does not tell
            self._is_full = True
            return
        if is_of_file:
            _forget(first, last)
        elif parameter.data_ptr() in self._whole:
            self._move(parameter)

    def close(self) -> None:
        """Give back to the system what was freed, once all is stored."""
        if self._file is not None:
            self._file.close()  # the maps keep what is in it
            if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # of glibc
                trim(0)

    def _move(self, parameter: Tensor) -> None:
        """To the file, together with those that share its memory."""
        if self._file is None and (file := _open_file(self._bytes)) is not None:
            self._file = file
        try:
            values = None if self._file is None else _write(self._file, parameter.detach())
        except OSError:
            values = None
        if values is None:
            self._is_full = True
            warnings.warn(
                "the weights of an accelerated model stay in memory twice: no folder on a disk "
                f"has {self._bytes / 2**30:.1f} GiB of room for torch's copy; set TMPDIR to one",
                stacklevel=2,
            )
            return
        for each in self._sharing[parameter.data_ptr()]:
            each.data = values.view(each.shape)


def _are_all(tensors: list[Tensor]) -> bool:
    """Whether ``tensors``, which share their memory, have all of it, and nobody else holds it: a
    state_dict in somebody's hand, or an array."""
    storage = tensors[0].untyped_storage()
    count = getattr(torch._C, "_storage_Use_Count", lambda _: 0)(storage._cdata)
    return storage.nbytes() == tensors[0].nbytes and count <= len({*map(id, tensors)}) + 1


def _whole_pages(tensor: Tensor) -> tuple[int, int]:
    """Addresses of the first and behind the last page that hold nothing else."""
    start, size = tensor.data_ptr(), mmap.PAGESIZE
    return -(-start // size) * size, (start + tensor.nbytes) // size * size


def _has_own_pages(first: int, last: int) -> bool:
    """Whether memory from ``first`` to ``last`` has pages that no file has: never written to, those
    of a private map have not."""
    with _PAGEMAP.open("rb", buffering=0) as file:
        file.seek(first // mmap.PAGESIZE * 8)
        flags = np.frombuffer(file.read((last - first) // mmap.PAGESIZE * 8), np.uint64)
    anonymous = ((flags & _PRESENT) != 0) & ((flags & _OF_FILE) == 0)
    return bool((anonymous | ((flags & _SWAPPED) != 0)).any())


def _forget(first: int, last: int) -> None:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    madvise(first, last - first, mmap.MADV_DONTNEED)


def _write(file: BinaryIO, values: Tensor) -> Tensor:
    """A private map of the ``values`` behind what ``file`` holds."""
    start = -(-file.seek(0, os.SEEK_END) // mmap.ALLOCATIONGRANULARITY)
    start *= mmap.ALLOCATIONGRANULARITY
    raw: NDArray[np.uint8] = values.reshape(-1).view(torch.uint8).numpy()
    file.seek(start)
    left = memoryview(raw.data)
    while left:  # one call writes at most 2 GiB
        left = left[file.write(left) :]
    mapped = mmap.mmap(file.fileno(), raw.nbytes, access=mmap.ACCESS_COPY, offset=start)
    return torch.frombuffer(mapped, dtype=values.dtype).view(values.shape)


def _open_file(size: int) -> BinaryIO | None:
    """A file without a name on a disk with room for ``size`` bytes."""
    for folder in dict.fromkeys((tempfile.gettempdir(), "/var/tmp", str(Path.home()))):
        try:
            if shutil.disk_usage(folder).free < 1.1 * size:
                continue
            file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError:
            continue
        if _is_on_a_disk(file.fileno()):
            return file
        file.close()
    return None


def _is_on_a_disk(descriptor: int) -> bool:
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return not any(kind in _IN_MEMORY for number, kind in _mounts() if number == wanted)


def _mounts() -> Iterator[tuple[str, str]]:
    """Device numbers of what is mounted, and kinds of file system."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield line.split()[2], line.split(" - ", 1)[1].split()[0]
