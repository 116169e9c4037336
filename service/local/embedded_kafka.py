"""A real single-node Kafka broker (KRaft) for demos and tests: Java 17, jars fetched once by Maven.

Listens on 127.0.0.1, keeps its data in one directory, runs in its own session and is stopped by whoever started it.
"""

import os
import re
import shutil
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import IO

from service.errors import MissingProgram
from service.subprocesses.java_classes import archive_options, new_archive
from tasks.errors import TransientError
from tasks.local_server import LocalServer, free_port
from tasks.waiting import wait_until

__all__ = ["EmbeddedKafka", "copy_storage", "install_jars", "jar_directory"]

FORMAT_S = 120.0
_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}/log
num.partitions=4
num.network.threads=2
num.io.threads=4
background.threads=2
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2500
broker.heartbeat.interval.ms=500
initial.broker.registration.timeout.ms=30000
auto.create.topics.enable=false
message.max.bytes=10485760
replica.fetch.max.bytes=10485760
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=16777216
"""


def jar_directory() -> Path:
    """Return where the jars are kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("ALERTPROD_KAFKA_JARS", f"{cache}/alertprod/kafka-4.1.0"))


def install_jars() -> Path:
    """Fetch the jars where they are missing and return their directory.

    Raises
    ------
    MissingProgram
        No Java or no Maven, with the command that installs them.
    """
    if shutil.which("java") is None:
        raise MissingProgram("no Java for the Kafka broker: apt-get install openjdk-17-jre-headless")
    target = jar_directory()
    if (target / ".complete").exists():
        return target
    if shutil.which("mvn") is None:
        raise MissingProgram("no Maven to fetch the Kafka broker: apt-get install maven")
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    pom = partial / "pom.xml"
    pom.write_text((files("service.local") / "pom.xml").read_text(encoding="utf-8"), encoding="utf-8")
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
    fetching = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    if fetching.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise MissingProgram(f"Maven could not fetch the Kafka broker: {fetching.stdout[-800:]}")
    (partial / ".complete").touch()
    try:
        os.rename(partial, target)
    except OSError:  # another process was faster
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _launch(command: list[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def _identity() -> str:
    """Return a new identity as Kafka writes them: 16 bytes in base 64."""
    return "A" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]  # a leading dash would be an option


def copy_storage(source: Path, target: Path) -> None:
    """Copy a directory that Kafka has formatted and not used; the copy is that of another cluster, and is whole or not there.

    Raises
    ------
    OSError
        `target` is there, or cannot be written.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copytree(source, partial)
    facts = partial / "meta.properties"
    changed = re.sub(r"^(\w+\.id)=\S{22}$", lambda m: f"{m[1]}={_identity()}", facts.read_text(), flags=re.MULTILINE)
    facts.write_text(changed, encoding="utf-8")
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@dataclass
class EmbeddedKafka(LocalServer):
    """One broker in `directory`.

    `properties` are further lines of ``server.properties`` (a later one wins), `scram` the passwords of SCRAM-SHA-512 users.
    `launch` starts the broker, given command and log, as the leader of a group of its own. `archive` is the file to which
    Java writes the classes at the end, for brokers that start later.
    """

    heap: str = "320m"
    wait_s: float = 60.0
    properties: dict[str, str] = field(default_factory=dict)
    scram: dict[str, str] = field(default_factory=dict)
    launch: Callable[[list[str], IO[bytes]], "subprocess.Popen[bytes]"] = _launch
    archive: Path | None = None

    @property
    def brokers(self) -> str:
        """host:port of the broker."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> str:
        """Start (or start again, with its data and port) and wait until it takes requests.

        Raises
        ------
        MissingProgram, TransientError
            The message holds the end of the broker's log.
        """
        jars = install_jars()
        self.make_directory()
        if self.archive is None:
            self._archive_classes(jars)
        self.take_port()
        config = self.directory / "server.properties"
        more = "".join(f"{k}={v}\n" for k, v in self.properties.items())
        text = (_PROPERTIES + more).format(port=self.port, controller=free_port(), data=self.directory)
        config.write_text(text, encoding="utf-8")
        if not (self.directory / "log" / "meta.properties").exists():
            self._make_storage(jars, config)
        self._log = self.directory / "kafka.log"
        written = [] if self.archive is None else [f"-XX:ArchiveClassesAtExit={self.archive}"]
        with self._log.open("wb") as log:
            self._process = self.launch([*self._java(jars, self.heap), *written, "kafka.Kafka", str(config)], log)
        (self.directory / "kafka.pid").write_text(str(self._process.pid), encoding="utf-8")
        self._wait()
        return self.brokers

    def _archive_classes(self, jars: Path) -> None:
        """Let a broker start and stop whose classes Java keeps, where none did; this one starts without them where that fails."""
        with new_archive(jars) as archive, suppress(TransientError):
            if archive is not None:
                with EmbeddedKafka(self.directory / "classes", launch=self.launch, archive=archive):
                    pass

    def _make_storage(self, jars: Path, config: Path) -> None:
        """Make the directory of the log: a copy of the first one that was formatted, which takes Java two seconds."""
        log, kept = self.directory / "log", jars / "formatted"
        if kept.exists() and not log.exists() and not self.scram:
            copy_storage(kept, log)
            return
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-c", str(config), "-t", _identity()]
        for name, password in self.scram.items():
            tool += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        self._format([*self._java(jars, "128m"), *tool])
        if not self.scram:
            with suppress(OSError):  # another process was faster, or the jars are where we may not write
                copy_storage(log, kept)

    def _format(self, command: list[str]) -> None:
        """Make the directory of the log; it is started as the broker is, for it makes directories that are missing."""
        said = self.directory / "format.log"
        with said.open("wb") as log:
            process = self.launch(command, log)
            try:
                status = process.wait(timeout=FORMAT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait(timeout=10)
        if status:
            text = "" if self.scram else f": {said.read_text(errors='replace')[-1500:]}"  # no passwords in messages
            raise TransientError(f"the Kafka broker's storage was not formatted (status {status}){text}")

    def _java(self, jars: Path, heap: str) -> list[str]:
        return [
            "java",
            f"-Xms{heap}",
            f"-Xmx{heap}",
            "-XX:+UseSerialGC",
            "-XX:MaxMetaspaceSize=128m",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:TieredStopAtLevel=1",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
            *archive_options(jars),
            "-cp",
            f"{jars}/*",
        ]

    def _wait(self) -> None:
        if not wait_until(self._started, self.wait_s):
            self.stop(now=True)
            raise TransientError(f"the Kafka broker was not ready after {self.wait_s:.0f} s: {self._log_end()}")

    def _started(self) -> bool:
        if self._process.poll() is not None:
            raise TransientError(f"the Kafka broker stopped while starting: {self._log_end()}")
        return "Kafka Server started" in self._log.read_text(errors="replace")

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-1500:]

    def stop(self, now: bool = False) -> None:
        """Stop the broker (`now`: by SIGKILL) and, unless it is kept, delete its directory."""
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGKILL if now else signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)
        if not now:
            self.delete_directory()
