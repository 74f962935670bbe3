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


def check_admin_port(host: str, port: int, admin_port: int) -> None:
    """Raise InvalidSetting if the admin port is the server's other port, or nothing can listen there."""
    if admin_port == port:
        raise InvalidSetting(f"HEADWAITER_ADMIN_PORT={admin_port} is the server's own port: choose another one")
    try:
        check_address(host, admin_port)
    except InvalidSetting as error:
        raise InvalidSetting(f"HEADWAITER_ADMIN_PORT={admin_port} cannot be used: {error}") from error
