"""Acting as another user, for tests of what a process of that user may not do. Needs the ability "other owners"."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

OTHER = 12345
"""A user that is not this one."""


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """In the block the whole process has this effective user."""
    before = os.geteuid()
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(before)
