"""Whose process is at the other end of a Unix socket."""

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")
"""`struct ucred`: process, user and group of a peer."""


def is_own_user(link: socket.socket) -> bool:
    """Whether the process at the other end is this user's, as the kernel tells it (SO_PEERCRED, unix(7))."""
    _, user, _ = _CREDENTIALS.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(user == os.geteuid())
