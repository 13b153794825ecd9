"""Offloads torch's parameters to disk once the runner has packed them.

A parameter remains an ordinary tensor: its storage is a private file mapping (``MAP_PRIVATE``),
whose pages are read again on access. ``from_pretrained`` maps safetensors files this way already;
other parameters are written to an unnamed temporary file and mapped from there."""

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

_MIN_BYTES = 1 << 16  # smaller tensors stay in memory
_PAGEMAP = Path("/proc/self/pagemap")  # a 64-bit entry per page
_PRESENT, _SWAPPED, _FILE_BACKED = (np.uint64(1 << bit) for bit in (63, 62, 61))
_RAM_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")


class ParameterOffload:
    """Moves the parameters of one network out of memory.

    Args:
        parameters: all that may be passed to ``offload``.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._sharing: dict[int, list[Tensor]] = {}
        for each in parameters:
            self._sharing.setdefault(each.data_ptr(), []).append(each)
        self._bytes = sum(sharing[0].nbytes for sharing in self._sharing.values())
        self._movable = {
            address for address, sharing in self._sharing.items() if _owns_storage(sharing)
        }
        self._file: BinaryIO | None = None
        self._disabled = not _PAGEMAP.exists()

    def offload(self, parameter: Tensor) -> None:
        """Free the memory of ``parameter`` if possible; its values stay readable."""
        if parameter.nbytes < _MIN_BYTES or parameter.device.type != "cpu" or self._disabled:
            return
        if not parameter.is_contiguous() or parameter.is_shared():
            return
        first, last = _whole_pages(parameter)
        try:
            is_clean_mapping = not _has_anonymous_pages(first, last)
        except OSError:  # pagemap is not readable here
            self._disabled = True
            return
        if is_clean_mapping:
            _drop_pages(first, last)
        elif parameter.data_ptr() in self._movable:
            self._move(parameter)

    def close(self) -> None:
        """Return freed heap memory to the system. Call this after the last ``offload``."""
        if self._file is not None:
            self._file.close()  # the mappings keep its contents
            if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # of glibc
                trim(0)

    def _move(self, parameter: Tensor) -> None:
        """To the file, with all parameters that share its storage."""
        if self._file is None and (file := _open_file(self._bytes)) is not None:
            self._file = file
        try:
            values = None if self._file is None else _write(self._file, parameter.detach())
        except OSError:
            values = None
        if values is None:
            self._disabled = True
            warnings.warn(
                "the weights of an accelerated model stay in memory twice: no folder on a disk "
                f"has {self._bytes / 2**30:.1f} GiB of room for torch's copy; set TMPDIR to one",
                stacklevel=2,
            )
            return
        for each in self._sharing[parameter.data_ptr()]:
            each.data = values.view(each.shape)


def _owns_storage(tensors: list[Tensor]) -> bool:
    """Whether ``tensors``, which share one storage, cover all of it and hold its only references. A
    user's state_dict or numpy array would hold another one."""
    storage = tensors[0].untyped_storage()
    count = getattr(torch._C, "_storage_Use_Count", lambda _: 0)(storage._cdata)
    return storage.nbytes() == tensors[0].nbytes and count <= len({*map(id, tensors)}) + 1


def _whole_pages(tensor: Tensor) -> tuple[int, int]:
    """Start and end address of the pages that lie entirely within ``tensor``."""
    start, size = tensor.data_ptr(), mmap.PAGESIZE
    return -(-start // size) * size, (start + tensor.nbytes) // size * size


def _has_anonymous_pages(first: int, last: int) -> bool:
    """Whether a page between the addresses is anonymous memory. Pages of a private file mapping
    become anonymous when they are written to; dropping those would lose data."""
    with _PAGEMAP.open("rb", buffering=0) as file:
        file.seek(first // mmap.PAGESIZE * 8)
        flags = np.frombuffer(file.read((last - first) // mmap.PAGESIZE * 8), np.uint64)
    anonymous = ((flags & _PRESENT) != 0) & ((flags & _FILE_BACKED) == 0)
    return bool((anonymous | ((flags & _SWAPPED) != 0)).any())


def _drop_pages(first: int, last: int) -> None:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    madvise(first, last - first, mmap.MADV_DONTNEED)


def _write(file: BinaryIO, values: Tensor) -> Tensor:
    """Append ``values`` to ``file``; returns a tensor on a private mapping of them."""
    start = -(-file.seek(0, os.SEEK_END) // mmap.ALLOCATIONGRANULARITY)
    start *= mmap.ALLOCATIONGRANULARITY
    raw: NDArray[np.uint8] = values.reshape(-1).view(torch.uint8).numpy()
    file.seek(start)
    remaining = memoryview(raw.data)
    while remaining:  # one write takes at most 2 GiB
        remaining = remaining[file.write(remaining) :]
    mapped = mmap.mmap(file.fileno(), raw.nbytes, access=mmap.ACCESS_COPY, offset=start)
    return torch.frombuffer(mapped, dtype=values.dtype).view(values.shape)


def _open_file(size: int) -> BinaryIO | None:
    """An unnamed temporary file on a disk with ``size`` free bytes; None if there is no such
    disk."""
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
    return not any(kind in _RAM_FILE_SYSTEMS for number, kind in _mounts() if number == wanted)


def _mounts() -> Iterator[tuple[str, str]]:
    """Device number and file system type of each mount."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield line.split()[2], line.split(" - ", 1)[1].split()[0]
