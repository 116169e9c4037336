"""All that the doctor looks at, in the order in which one thing needs the other."""

from collections.abc import Callable, Iterator, Mapping

from service.doctor.findings import Finding, wrong
from service.settings import Settings

__all__ = ["examine"]


def examine(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Give every finding as it is made; nothing is changed, and no failure of one look ends the others."""
    from service.doctor.database import database_findings
    from service.doctor.machine import machine_findings
    from service.doctor.streams import broker_findings, registry_findings

    looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("machine", lambda: machine_findings(settings, environment)),
        ("database", lambda: database_findings(settings)),
        ("broker", lambda: broker_findings(settings)),
        ("registry", lambda: registry_findings(settings)),
    )
    for name, look in looks:
        try:
            yield from look()
        except Exception as error:  # what breaks a look is a finding, too
            from service.failures import typed

            reason = typed(error)
            yield wrong(name, f"{reason.code}: {reason}", f"docs/errors/{reason.code}.md")
