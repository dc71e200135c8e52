"""One seed, many independent named streams.

Every random choice is a priority derived from (seed, stream name, key of the
row). Nothing depends on how often or in what order a generator was called, so
changing b_v does not reshuffle the draw, and shuffling the input changes nothing.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

UINT64 = np.uint64


def stream_seed(seed: int, stream: str) -> int:
    """A 64-bit seed for one named stream; streams do not overlap.

    >>> stream_seed(0, "draw") == stream_seed(0, "verify")
    False
    """
    text = f"{seed}\0{stream}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def keys_of_ids(ids: Iterable[str], seed: int = 0) -> NDArray[np.uint64]:
    """One uint64 key [n] per id: the first 8 bytes of its BLAKE2b hash, salted with the seed.

    >>> keys_of_ids(["a", "b"]).dtype
    dtype('uint64')
    """
    salt = stream_seed(seed, "keys").to_bytes(8, "little")
    digests = bytearray()  # not joined from a list, which takes fifty bytes a row
    for i in ids:
        spelt = i.encode("utf-8", "surrogatepass")
        digests += hashlib.blake2b(spelt, digest_size=8, salt=salt).digest()
    return np.frombuffer(digests, dtype="<u8").astype(UINT64)


def priorities(keys: NDArray[np.uint64], seed: int, stream: str) -> NDArray[np.uint64]:
    """Pseudo-random uint64 priorities [n]; the m smallest of a set are a uniform draw of m.

    SplitMix64 (Steele et al., OOPSLA 2014) of each key, offset by the stream's seed.
    """
    z = keys.astype(UINT64) + UINT64(stream_seed(seed, stream))  # wraps, as it should
    z = z * UINT64(0x9E3779B97F4A7C15) + UINT64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> UINT64(30))) * UINT64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> UINT64(27))) * UINT64(0x94D049BB133111EB)
    return z ^ (z >> UINT64(31))
