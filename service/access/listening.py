"""Where a service may listen: on other machines' networks only when it asks who comes, or was told not to in so many words."""

import ipaddress

from service.errors import SettingsError
from service.settings import Settings

__all__ = ["check_listening", "is_of_this_machine", "is_safe_host"]


def is_of_this_machine(host: str) -> bool:
    """Whether an address that is listened on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_listening(settings: Settings) -> None:
    """Refuse to listen where others can come in and nobody is asked who he is.

    Raises
    ------
    SettingsError
        With the two ways out.
    """
    if settings.access == "local" and not is_of_this_machine(settings.host):
        raise SettingsError(
            f"ALERTPROD_HOST={settings.host} is reached from other machines, where anyone could read, submit and change: set "
            "ALERTPROD_ACCESS=tokens ('alertprod tokens create NAME --scope read', or ALERTPROD_ADMIN_TOKEN_FILE, makes them), "
            "or ALERTPROD_ACCESS=open-to-everyone where that is meant"
        )


def is_safe_host(host: str) -> bool:
    """Whether a Host header can be no name that a foreign name server made point to this machine (DNS rebinding).

    Safe are addresses, and names without a dot or below ``localhost``, which are in no public zone.
    """
    name = host.rsplit(":", 1)[0] if host.count(":") == 1 else host.partition("]")[0].lstrip("[")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name.rstrip(".") or name.rstrip(".").lower().endswith(".localhost")
    return True
