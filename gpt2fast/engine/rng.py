"""Counter-based random numbers: the n-th draw of a stream is a pure function of (seed, stream, n).

No state is carried from token to token, so a completion does not depend on what shares its batch,
nor on being preempted and resumed.
"""

from __future__ import annotations

import secrets

_INVERSE_2_53 = 2.0**-53


def fresh_seed() -> int:
    """A seed in [0, 2**64) from the operating system's entropy."""
    return secrets.randbits(64)


def uniform(seed: int, stream: int, position: int) -> float:
    """The draw number ``position`` of ``stream``: a double in [0, 1).

    Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the key
    (seed, stream) and the counter ``position``, first word of the block, its upper 53 bits.
    """
    # Imported here: numpy.random costs tens of milliseconds that greedy decoding need not pay.
    from numpy import array, uint64
    from numpy.random import Philox

    # numpy adds 1 to the counter before the first block; counters from 0 on are all valid keys.
    bits = Philox(key=array((seed, stream), dtype=uint64), counter=position).random_raw()
    return (bits >> 11) * _INVERSE_2_53
