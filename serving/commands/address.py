"""The address of a server that is to start, tried out before anything is started."""

import socket

from registry.environment import InvalidSetting


def check_address(host: str, port: int) -> None:
    """Listen there for a moment; raises InvalidSetting where that cannot be: in use, not this machine's, no right to.

    A socket in TIME_WAIT does not count, as the server's own does not.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidSetting(
            f"no server can listen at {host}, port {port} ({reason}): end what listens there, or choose another "
            "--host or --port"
        ) from error
