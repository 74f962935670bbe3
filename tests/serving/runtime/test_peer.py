"""Whose process is at the other end of a socket."""

import os
import socket

from serving.runtime.peer import is_own_user
from tests.abilities import require
from tests.other_user import OTHER, acting_as


def test_a_connection_of_another_user_is_known() -> None:
    require("other owners")
    for user in (OTHER, os.geteuid()):
        with acting_as(user):
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        assert is_own_user(ends[0]) == (user == os.geteuid())
        for end in ends:
            end.close()
