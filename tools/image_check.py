"""Do what the Dockerfile does, without an engine: install both targets into clean prefixes, list their sizes, run their roles.

``python -m tools.image_check [roles|worker ...]``. Roles run as another user from a tree that they cannot write, against a
PostgreSQL and a Kafka of their own; each must say that it is ready. Exits with 1 where one does not, or a target is too large.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from apdb.operate.embedded import EmbeddedPostgres
from service.local.embedded_kafka import EmbeddedKafka
from tasks.local_server import free_port

ROOT = Path(__file__).parents[1]
LIMITS_MB = {"roles": 600, "worker": 1500}
ROLES = {"roles": ("relay", "reconcile", "ingest"), "worker": ("worker", "serve")}
# what is loaded late: by requests, by job processes, by upkeep
LATE = {
    "roles": ("service.intake.header_process", "service.doctor.streams", "service.doctor.database",
              "exposure.io.plain", "apdb.operate.archive", "apdb.operate.restore", "apdb.operate.export", "alerts.packets.trim",
              "alerts.delivery.replay", "pyarrow.parquet", "pyarrow.dataset"),
    "worker": ("service.workers.job", "service.processing.visit", "service.processing.build_template", "association.precovery",
               "calibration.characterize", "middleware", "pyarrow.parquet", "service.api.reads",
               "service.processing.looking.viewer_process", "service.pages.objects.periods", "scipy.special", "cv2"),
}  # fmt: skip
USER = 10001


def main() -> int:
    """Check the targets that are named, or both; returns the exit status."""
    problems = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers and folders go with us
    with tempfile.TemporaryDirectory(prefix="alertprod-image-") as directory, ExitStack() as servers:
        folder = Path(directory)
        folder.chmod(0o755)
        postgres = servers.enter_context(EmbeddedPostgres(folder / "postgres"))
        kafka = servers.enter_context(EmbeddedKafka(folder / "kafka"))
        for target in sys.argv[1:] or list(ROLES):
            prefix = folder / target
            uv = {**os.environ, "UV": str(Path(sys.executable).with_name("uv")), "PYTHON": python()}
            subprocess.run(["sh", "deploy/install.sh", target, str(prefix)], cwd=source(folder), env=uv, check=True)
            size = megabytes(prefix)
            print(
                f"{target}: {size:.0f} MB unpacked, without the base image; the largest:", *largest(prefix), sep="\n  "
            )
            if size > LIMITS_MB[target]:
                problems.append(f"{target} has {size:.0f} MB, more than {LIMITS_MB[target]}")
            problems += run_roles(target, prefix, folder / f"run-{target}", postgres.uri, kafka.brokers)
    print("\n".join(problems) or "both targets install, and their roles run from a tree that they cannot write")
    return int(bool(problems))


def source(folder: Path) -> Path:
    """Return a copy of what is committed or staged: what the build context holds."""
    copy = folder / "source"
    if not copy.exists():
        copy.mkdir()
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
    return copy


def python() -> str:
    """Return a Python that another user can reach: that of the system where it is new enough, else this one."""
    system = "/usr/bin/python3"
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    good = Path(system).exists() and subprocess.run([system, "-c", code], check=False).returncode == 0
    return system if good else sys.executable


def megabytes(folder: Path) -> float:
    """Return the size of all files."""
    return sum(p.lstat().st_size for p in folder.rglob("*")) / 1e6


def largest(prefix: Path, count: int = 12) -> list[str]:
    """Return the largest packages with their sizes."""
    (packages,) = prefix.glob("lib/python3*/site-packages")
    sizes = sorted(((megabytes(p), p.name) for p in packages.iterdir() if p.is_dir()), reverse=True)
    return [f"{size:6.0f} MB {name}" for size, name in sizes[:count]]


def run_roles(target: str, prefix: Path, home: Path, uri: str, brokers: str) -> list[str]:
    """Migrate, then start every role of a target; returns what went wrong."""
    home.mkdir()
    for name in ("tmp", "data"):
        (home / name).mkdir()
        os.chown(home / name, USER, USER)
    environment = {
        "PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": str(home / "tmp"), "TMPDIR": str(home / "tmp"),
        "NUMBA_CACHE_DIR": str(home / "tmp" / "numba"), "MPLCONFIGDIR": str(home / "tmp" / "matplotlib"),
        "XDG_CACHE_HOME": str(home / "tmp" / "cache"), "XDG_CONFIG_HOME": str(home / "tmp" / "config"),
        "PYTHONDONTWRITEBYTECODE": "1", "ALERTPROD_DATABASE_URI": uri, "ALERTPROD_KAFKA_BROKERS": brokers,
        "ALERTPROD_WORKERS": "1", "ALERTPROD_DATA_ROOTS": "[]",
        **{f"ALERTPROD_{n.upper()}_DIR": str(home / "data" / n) for n in ("archive", "upload", "template", "products")},
    }  # fmt: skip
    done = subprocess.run(
        [f"{prefix}/bin/alertprod", "apdb", "migrate"], env=environment, cwd=home, user=USER, group=USER, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    out = [] if done.returncode == 0 else [f"{target}: apdb migrate: {done.stderr[-800:]}"]
    for module in LATE[target]:
        load = [f"{prefix}/bin/python", "-P", "-c", f"import {module}"]
        done = subprocess.run(
            load,
            env=environment,
            cwd=home,
            user=USER,
            group=USER,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            out.append(f"{target}: {module}: {done.stderr.strip().splitlines()[-1]}")
    for role in ROLES[target]:
        with started(role, prefix, home, environment) as (process, port, log):
            said = wait_ready(process, port)
        text = log.read_text(errors="replace")
        if said is not None or "Traceback" in text or "ModuleNotFound" in text or "Permission denied" in text:
            out.append(f"{target}: {role}: {said}: {text[-1500:]}")
        else:
            print(f"  {role} is ready, as user {USER}")
    return out


@contextmanager
def started(
    role: str, prefix: Path, home: Path, environment: dict[str, str]
) -> Iterator[tuple["subprocess.Popen[bytes]", int, Path]]:
    """Run a role as another user; it must end by itself when it is told to."""
    port, log = free_port(), home / f"{role}.log"
    variables = {**environment, "ALERTPROD_METRICS_PORT": str(port), "ALERTPROD_PORT": str(free_port())}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [f"{prefix}/bin/alertprod", role],
            env=variables,
            cwd=home / "tmp",
            user=USER,
            group=USER,
            stdout=out,
            stderr=out,
        )
        try:
            yield process, port, log
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)


def wait_ready(process: "subprocess.Popen[bytes]", port: int) -> str | None:
    """Return None when the role is ready, else what it said last."""
    deadline, said = time.monotonic() + 90, "no answer"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5)
            if answer.status_code == 200:
                return None
            said = answer.text
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    return said if process.poll() is None else f"ended with {process.returncode}"


if __name__ == "__main__":
    sys.exit(main())
