"""The address of a server that is to start, tried out before anything is started."""

import socket
from collections.abc import Mapping

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


def check_further_ports(host: str, port: int, further: Mapping[str, int]) -> None:
    """Raise InvalidSetting if two of a server's ports are the same one, or nothing can listen at one of them.

    further: variable → port, 0 for none.
    """
    taken = {port: "the server's own port"}
    for variable, each in further.items():
        if not each:
            continue
        if each in taken:
            raise InvalidSetting(f"{variable}={each} is {taken[each]}: choose another one")
        try:
            check_address(host, each)
        except InvalidSetting as error:
            raise InvalidSetting(f"{variable}={each} cannot be used: {error}") from error
        taken[each] = f"the port of {variable}"
