"""Free ports for the servers that tests start."""

import contextlib
import random
import socket

# Below those that Linux gives to connections, one of which could take a port before its server does; above Ray's own.
PORTS = range(20_000, 32_768)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as taken:
        ports: list[int] = []
        while len(ports) < count:
            port = random.SystemRandom().choice(PORTS)  # pytest-randomly seeds the other one alike in parallel tests
            with contextlib.suppress(OSError):
                taken.enter_context(socket.create_server(("", port)))
                ports.append(port)
        return ports
