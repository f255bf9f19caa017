"""Where a server listens: bound before anything is loaded, and said as an address to type."""

import ipaddress
import socket

from smidgen.errors import SmidgenError


def listening_socket(host: str, port: int) -> socket.socket:
    """Bound already, so that a taken port is known before the model is loaded. Raises SmidgenError."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise SmidgenError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port or --host."
        ) from error


def address_of(listener: socket.socket, host: str) -> str:
    """`http://host:port`, with the address to type where the server listens on all of them."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine only."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise SmidgenError(f"--host {host} is not an address or name of this machine: {error}.") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
