"""Options in messages, under the flags that a user of the command line gave."""

from __future__ import annotations

import pytest

from gpt2fast.flag_names import with_flags

FLAGS = {"kv_cache_dtype": "--kv-cache-dtype", "dtype": "--dtype", "seed": "--seed"}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("dtype = 'int2' is not known", "--dtype int2 is not known"),
        ('or use dtype="float32"', "or use --dtype float32"),
        ("seed = -1 is negative; give 0", "--seed -1 is negative; give 0"),
        ("set dtype='float16', or less", "set --dtype float16, or less"),
        ("kv_cache_dtype = 'int8' of a dtype", "--kv-cache-dtype int8 of a dtype"),
        ("smaller by kv_cache_dtype.", "smaller by --kv-cache-dtype."),
        ("file.dtype=1, my_seed = 3, reseed=4", "file.dtype=1, my_seed = 3, reseed=4"),
    ],
)
def test_a_name_with_a_value_becomes_a_flag(message: str, told: str) -> None:
    assert with_flags(message, FLAGS) == told
    assert with_flags(told, FLAGS) == told
