"""Every draw comes from a generator of its own, keyed by what it is for.

So a run gives the same result whether it was interrupted or not, whatever the number of workers, and
a new kind of draw does not shift the others.
"""

import zlib

import numpy as np


def seed_sequence(seed: int, purpose: str, *key: int) -> np.random.SeedSequence:
    """The seed of one purpose (such as "batches"), narrowed by `key` (such as round and client).

    A purpose must always have the same number of keys: a trailing zero does not count.
    """
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *key])


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(seed_sequence(seed, purpose, *key))


def torch_seed(seed: int, purpose: str, *key: int) -> int:
    """A seed for torch's own generator (weight initialisation, dropout) for one purpose."""
    return int(seed_sequence(seed, purpose, *key).generate_state(1, np.uint64)[0] >> 1)
