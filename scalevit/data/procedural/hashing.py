"""Randomness without state: well-mixed 64-bit words from (seed, position, counter), a whole batch at a time.

The mixer is the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), a bijection of 64-bit words.
"""

from __future__ import annotations

import numpy as np

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(words: np.ndarray) -> np.ndarray:
    """Each uint64 word sent to a word that looks unrelated to it; different words stay different."""
    words = words ^ (words >> np.uint64(30))
    words = words * np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def key(*parts: int | np.ndarray) -> np.ndarray:
    """One uint64 key an element from integers or arrays of integers, in an order that matters."""
    state = np.zeros(np.broadcast_shapes(*(np.shape(part) for part in parts), (1,)), np.uint64)
    for part in parts:
        word = np.uint64(part & _MASK) if isinstance(part, int) else part.astype(np.uint64)
        state = mix((state ^ word) + np.uint64(_GAMMA))
    return state


def uniform(keys: np.ndarray, counter: int) -> np.ndarray:
    """Float64 draws in [0, 1): draw number `counter` of each key, all independent."""
    words = mix(keys + np.uint64((counter + 1) * _GAMMA & _MASK))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniforms(keys: np.ndarray, count: int) -> np.ndarray:
    """Float32 draws in [0, 1), shape (keys, count): the first `count` draws of each key, all independent."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    return (mix(keys[:, None] + steps) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def uniform_one(one: int, counter: int) -> float:
    """`uniform` of a single key, without arrays: a hundred times quicker for one number."""
    word = (one + (counter + 1) * _GAMMA) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((word ^ (word >> 31)) >> 11) * 2.0**-53
