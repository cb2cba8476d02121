"""Ports at which the processes of a run find each other."""

import socket


def free_port() -> int:
    """One of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
