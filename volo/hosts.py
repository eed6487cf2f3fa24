"""Host names and addresses."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether an address, with or without brackets, belongs to this machine alone; of names only `localhost` does."""
    if host == "localhost":
        return True
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
