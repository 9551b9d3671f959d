"""Make independent random streams from names."""

import hashlib

import numpy as np


def stream(*key: object) -> np.random.Generator:
    """Return the random stream of a key, independent of every other key's.

    NumPy's own seeding by tuples is not: it takes (1, 2) and (1, 2, 0) for the same.
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest))
