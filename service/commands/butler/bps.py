"""``alertprod bps ...``: the batch system of the Rubin middleware, with the paths of this installation."""

import os
import subprocess
import sys
from pathlib import Path

import typer

from service.commands.butler.outcome import of_images, ran_here, report_of, unfinished
from service.terminal import say
from tasks.errors import CallerError

__all__ = ["bps_environment", "run_bps"]

SAID = "Submit dir: "  # of BPS, before the jobs start
RUNS = ("submit", "restart")


def run_bps(context: typer.Context) -> None:
    """Run ``bps`` (submit, prepare, report, ...; ``--help`` lists them) with the paths of this installation.

    The status is 1, too, where jobs have ended and quanta are not done; those that failed are named.
    """
    program = Path(sys.prefix) / "bin" / "bps"
    if not program.exists():
        raise CallerError("BPS is not installed: pip install 'alertprod[batch]'")
    command, environment = [str(program), *context.args], bps_environment(os.environ)
    if not set(RUNS) & set(context.args):
        raise typer.Exit(subprocess.run(command, env=environment).returncode)
    status, folder = _run_and_listen(command, environment)
    folder = _named(context.args) or folder
    if status and folder is not None and len(str(folder).split()) > 1:
        say(f"BPS does not quote paths: submit from a folder without a space ({folder})", error=True)
    if status == 0 and folder is not None and ran_here(folder):
        tasks = report_of(folder)
        failed, missing = of_images(tasks), unfinished(tasks)
        if failed:
            say(failed, error=True)
        if missing:
            say(f"{missing}. Logs: {folder / 'logs'}", error=True)
            status = 1
    raise typer.Exit(status)


def _named(arguments: list[str]) -> Path | None:
    """Return the folder of a submission that is named in one of the ways that BPS knows: ``--id PATH``, ``--id=PATH``."""
    for argument, after in zip(arguments, [*arguments[1:], None], strict=True):
        if argument == "--id" and after is not None:
            return Path(after)
        if argument.startswith("--id="):
            return Path(argument.removeprefix("--id="))
    return None


def _run_and_listen(command: list[str], environment: dict[str, str]) -> tuple[int, Path | None]:
    """Run BPS, whose lines are shown as they come; returns its status, and the folder of a submission."""
    folder = None
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith(SAID):
                folder = Path(line.removeprefix(SAID).strip())
    return process.returncode, folder


def bps_environment(environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """Return an environment in which BPS finds ``pipetask`` and ``butler`` of this installation, and Parsl its workers.

    BPS writes below ``PWD``: it is set to the current folder, which it is not where a program was started by another than a shell.
    """
    prefix = sys.prefix
    path = os.pathsep.join([str(Path(prefix) / "bin"), environment.get("PATH", "")])
    return {**environment, "CTRL_MPEXEC_DIR": prefix, "DAF_BUTLER_DIR": prefix, "PATH": path, "PWD": str(Path.cwd())}
