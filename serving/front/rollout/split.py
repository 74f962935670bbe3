"""From a request's key to its side of a rollout: a hash, so that a key stays on its side while the weight grows."""

from hashlib import blake2b


def place(salt: str, key: bytes) -> float:
    """A number in 0..1, 1 not included: uniform over keys, and another one for another salt."""
    digest = blake2b(key, digest_size=7, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest) / (1 << 56)


def is_candidates(salt: str, key: bytes, weight: float) -> bool:
    """Whether the candidate answers. key: of the request. weight: the candidate's share in 0..1.

    Whoever is the candidate's at one weight is so at each higher one.
    """
    return place(salt, key) < weight
