"""``alertprod bps ...``: the batch system of the Rubin middleware, with the paths of this installation."""

import os
import subprocess
import sys
from pathlib import Path

import typer

from tasks.errors import CallerError

__all__ = ["bps_environment", "run_bps"]


def run_bps(context: typer.Context) -> None:
    """Run ``bps`` (submit, prepare, report, ...; ``--help`` lists them) with the paths of this installation."""
    program = Path(sys.prefix) / "bin" / "bps"
    if not program.exists():
        raise CallerError("BPS is not installed: pip install 'alertprod[batch]'")
    raise typer.Exit(subprocess.run([str(program), *context.args], env=bps_environment(os.environ)).returncode)


def bps_environment(environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """Return an environment in which BPS finds ``pipetask`` and ``butler`` of this installation, and Parsl its workers.

    BPS writes below ``PWD``: it is set to the current folder, which it is not where a program was started by another than a shell.
    """
    prefix = sys.prefix
    path = os.pathsep.join([str(Path(prefix) / "bin"), environment.get("PATH", "")])
    return {**environment, "CTRL_MPEXEC_DIR": prefix, "DAF_BUTLER_DIR": prefix, "PATH": path, "PWD": str(Path.cwd())}
