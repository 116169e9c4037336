"""All settings of the service: environment variables with the prefix ``ALERTPROD_``."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SettingsError

__all__ = ["NOT_SETTINGS", "PREFIX", "Settings", "is_secret_option", "load_settings", "unknown_names"]

PREFIX = "ALERTPROD_"
# read elsewhere: by the rooms below (instrument files, threads), the command line, and the tests
NOT_SETTINGS = frozenset(
    PREFIX + name
    for name in (
        "INSTRUMENTS", "THREADS", "KAFKA_JARS", "DEBUG", "REAL_DATA", "APICURIO", "KILLS", "RELAY_KILLS", "BROKER_KILLS",
        "BROKER_DOWN_S", "ALERTS", "OVERLAP_ROUNDS", "ARCHIVE_HISTORIES", "ARCHIVE_KILLS", "FUZZ", "MESSAGES", "BURST", "BURST_READ_S",
        "DATABASE_DOWN_S", "FAULT_REPORT", "DRILL_VISITS", "API_URL", "TOKEN", "TOKEN_FILE", "DATABASE_URI_FILE", "SCHEMA_REGISTRY_FILE",
        "KAFKA_CLIENT_FILE", "JOB_SERVER_S",
    )
)  # fmt: skip
_SECRETS = ("database_uri", "schema_registry")
_OF_FILES = (*_SECRETS, "kafka_client")  # NAME_FILE names a file with the value
_SECRET_WORDS = ("password", "secret", "key", "jaas", "oauthbearer", "token", "credential", "pem", "config")
# options of librdkafka that hold no secret although a word of them says so
_OPEN_OPTIONS = ("ssl.key.location", "ssl.keystore.location", "sasl.oauthbearer.method", "sasl.oauthbearer.client.id",
                 "sasl.oauthbearer.scope")  # fmt: skip
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@|(?<=\?)[^#\s]+")  # user and password, and what signed addresses carry
_HIDDEN = (*_SECRETS, "kafka_client")  # their values are in no message
_JSON = {
    "kafka_client": '{"security.protocol": "SSL"}', "data_roots": '["/data"]',
    "alert_fan_out": '{"bright": "diaSource.snr > 20"}', "orbits": '["/data/MPCORB.DAT"]',
    "alert_veto": '{"diaSources": 5000}',
}  # fmt: skip
_PATHS = (
    "upload_dir",
    "template_dir",
    "products_dir",
    "docs_dir",
    "forced_positions",
    "camera",
    "ephemerides",
    "admin_token_file",
    "tls_certificate",
    "tls_key",
)


class Settings(BaseSettings):
    """Effective settings; ``alertprod config`` prints them with secrets masked."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        frozen=True,
        enable_decoding=False,
        env_ignore_empty=True,
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    database_uri: SecretStr = Field(SecretStr(""), title="Database", description="PostgreSQL URI of the APDB")
    kafka_brokers: str = Field("", title="Brokers", description="host:port of the Kafka brokers")
    kafka_client: dict[str, str] = Field({}, title="Kafka client", description="further librdkafka settings (security)")
    alert_topic: str = Field("alerts", title="Alert topic", description="topic that alerts are published on")
    visit_topic: str = Field("visits", title="Visit topic", description="topic that visit messages are read from")
    ingest_group: str = Field("alertprod-ingest", title="Ingest group", description="consumer group of the ingest")
    data_roots: list[Path] = Field(
        [], title="Data roots", description="directories that visit messages may name files in"
    )
    upload_dir: Path = Field(Path("uploads"), title="Uploads", description="where multipart uploads are kept")
    archive_dir: str = Field(
        "alerts", title="Archive", description="alert files, shared by workers and relay: directory or fsspec URL"
    )
    alert_fan_out: dict[str, str] = Field(
        {}, title="Fan-out", description="further topics and the filter expression of the alerts that each gets"
    )
    alert_partitions: int = Field(4, ge=1, title="Partitions", description="of alert topics that the relay makes")
    topic_replication: int = Field(1, ge=1, title="Replication", description="of topics that the relay makes")
    transactional_id: str = Field(
        "alertprod-relay", title="Transactional id", description="of the relay: one for each database"
    )
    schema_registry: SecretStr = Field(
        SecretStr(""), title="Schema registry", description="URL of a Confluent-compatible registry"
    )
    schema_subject: str = Field("alert-packet", title="Subject", description="of the alert schema in the registry")
    cutout_psf: Literal["source", "average", "none"] = Field(
        "source", title="Cutout PSF", description="PSF of the cutouts: at the source, of the whole image, or none"
    )
    template_dir: Path = Field(Path("templates"), title="Templates", description="template sets")
    template_set: str = Field("default", title="Template set", description="used when a message names none")
    products_dir: Path | None = Field(None, title="Products", description="difference images are kept here when set")
    forced_positions: Path | None = Field(
        None, title="Positions", description="table (id, ra, dec) measured on every image"
    )
    camera: Path | None = Field(
        None, title="Camera", description="camera file: where the detectors sit in the picture of the focal plane"
    )
    ephemerides_url: str = Field("", title="Ephemeris service", description="URL of a service that answers as MPSky")
    orbits: list[Path] = Field(
        [], title="Orbits", description="MPCORB.DAT, CometEls.txt, or what `alertprod orbits prepare` wrote"
    )
    observatory: str = Field("X05", title="Observatory", description="code of the Minor Planet Center, for `orbits`")
    ephemerides: Path | None = Field(None, title="Ephemerides", description="Parquet table of solar-system positions")
    earliest_mjd: float = Field(
        49718.0, title="Earliest time", description="MJD (TAI) before which no exposure is taken for real (1995)"
    )
    future_days: float = Field(
        1.0, ge=0, title="Future", description="days that a mid-exposure may lie after now, by clocks that differ"
    )
    alert_veto: dict[str, float] = Field(
        {},
        title="Alert veto",
        description="largest value of a count or quality metric; beyond it, or without a measured value, alerts are held",
    )
    host: str = Field("127.0.0.1", title="Host", description="address that the API listens on")
    port: int = Field(8080, ge=1, le=65535, title="Port", description="port that the API listens on")
    access: Literal["local", "tokens", "open-to-everyone"] = Field(
        "local",
        title="Access",
        description="local: no token, this machine only; tokens: a token for everything; open-to-everyone: whoever reaches "
        "the port may read, submit and change",
    )
    admin_token_file: Path | None = Field(
        None, title="Token file", description="file with a token of all scopes (a mounted secret)"
    )
    oidc_issuer: str = Field(
        "", title="Issuer", description="OpenID Connect issuer whose JSON Web Tokens are good (https)"
    )
    oidc_audience: str = Field("", title="Audience", description="this service in their claim aud")
    oidc_keys_url: str = Field("", title="Keys", description="where the issuer's keys are, if discovery does not say")
    api_docs: bool = Field(True, title="API docs", description="whether /docs and /openapi.json are answered")
    docs_dir: Path | None = Field(
        None, title="Documentation", description="folder of the built documentation, answered below /docs/"
    )
    tls_certificate: Path | None = Field(
        None, title="TLS certificate", description="PEM file with the chain: the API speaks https"
    )
    tls_key: Path | None = Field(None, title="TLS key", description="PEM file with the key of the certificate")
    rate_limit: int = Field(6000, ge=0, title="Rate", description="requests per minute of one principal; 0 is no limit")
    visits_per_day: int = Field(
        0, ge=0, title="Quota", description="visits that one principal may submit in a UTC day; 0: no limit"
    )
    audit_days: float = Field(
        400.0,
        ge=0,
        title="Record",
        description="days for which the record of acts is kept, and ended tokens; 0: for ever",
    )
    header_timeout_s: float = Field(10.0, gt=0, title="Head time", description="seconds for the head of a request")
    body_timeout_s: float = Field(20.0, gt=0, title="Body time", description="seconds without a byte of a body")
    idle_timeout_s: float = Field(
        15.0, ge=1, title="Idle time", description="seconds between requests on one connection"
    )
    max_connections: int = Field(1000, ge=1, title="Connections", description="open to the API at a time")
    max_submits: int = Field(
        64, ge=1, title="Submitting", description="requests that may submit visits at a time, in each API process"
    )
    max_viewers: int = Field(
        200,
        ge=1,
        title="Viewers",
        description="requests that may follow or await visits at a time, in each API process",
    )
    trusted_proxies: str = Field(
        "", title="Proxies", description="addresses, by commas, whose X-Forwarded-For and -Proto are believed"
    )
    access_log: bool = Field(
        True, title="Access log", description="whether every request to the API is a line of the log"
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, title="Metrics port", description="of /metrics, /healthz and /readyz of every role; 0: none"
    )
    metrics_host: str = Field(
        "127.0.0.1", title="Metrics host", description="address of that port, which asks nobody who he is"
    )
    otlp_endpoint: str = Field(
        "", title="Traces", description="URL of an OpenTelemetry collector (OTLP over HTTP); needs the extra 'otel'"
    )
    workers: int = Field(0, ge=0, le=256, title="Workers", description="job processes; 0 is one per core")
    lease_s: float = Field(60.0, gt=0, title="Lease", description="seconds after which a silent worker loses its visit")
    job_timeout_s: float = Field(600.0, gt=0, title="Job time", description="seconds of one visit; then job_crashed")
    job_memory_gb: float = Field(
        12.0, gt=0, title="Job memory", description="address space of a job, GiB; then out_of_memory"
    )
    job_file_gb: float = Field(32.0, gt=0, title="Job files", description="largest file that a job process writes, GiB")
    header_memory_gb: float = Field(
        2.0, gt=0, title="Header memory", description="address space of a process that reads headers, GiB"
    )
    attempts: int = Field(3, ge=1, title="Attempts", description="failures after which a visit is `failed`")
    retry_s: float = Field(
        5.0,
        ge=0,
        title="Retry",
        description="seconds of pause after the first failure; it doubles with each, up to 600",
    )
    drain_s: float = Field(
        45.0,
        ge=0,
        title="Drain",
        description="seconds for visits at work after SIGTERM; the rest goes back to the queue",
    )
    order_wait_s: float = Field(
        120.0, ge=0, title="Order", description="seconds to wait for an earlier visit of the patch"
    )
    image_wait_s: float = Field(
        0.0,
        ge=0,
        le=86400,
        title="Late images",
        description="seconds that an image may come after its message; then image_late",
    )
    poll_s: float = Field(0.2, gt=0, title="Poll", description="pause of an idle worker or relay")
    max_upload_mb: int = Field(1024, gt=0, title="Upload limit", description="largest upload, MiB")
    upload_keep_days: float = Field(
        0.0, ge=0, title="Upload time", description="days after its visit for which an upload is kept; 0: for ever"
    )
    crash_point: str = Field("", title="Crash point", description="fault tests: die by SIGKILL at this point")

    @field_validator(*_JSON, mode="before")
    @classmethod
    def _decode(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("no JSON") from None

    @field_validator(*_PATHS, "data_roots", "orbits", "archive_dir")
    @classmethod
    def _from_here(cls, value: Any) -> Any:
        """Make paths absolute once: the processes of a service need not run in one directory (URLs stay)."""
        if isinstance(value, list):
            return [cls._from_here(v) for v in value]
        if value is None or "://" in str(value) or "::" in str(value):
            return value
        return type(value)(os.path.abspath(os.path.expanduser(value)))

    def database(self) -> str:
        """Return the database URI in the clear (never log it).

        Raises
        ------
        SettingsError
            There is none.
        """
        self.need("database_uri")
        return self.database_uri.get_secret_value()

    def need(self, *names: str) -> None:
        """Demand settings that have no default.

        Raises
        ------
        SettingsError
            The message names the variables.
        """
        values = {n: getattr(self, n) for n in names}
        empty = [n for n, v in values.items() if not (v.get_secret_value() if isinstance(v, SecretStr) else v)]
        if empty:
            what = ", ".join(f"{PREFIX}{n.upper()} ({type(self).model_fields[n].description})" for n in empty)
            raise SettingsError(f"not set: {what}; 'alertprod up' starts servers and prints what to set")

    def masked(self) -> dict[str, Any]:
        """Return the effective values for printing."""
        shown = {k: _without_credentials(v) for k, v in self.model_dump(mode="json").items()}
        for name in _SECRETS:
            shown[name] = "********" if getattr(self, name).get_secret_value() else ""
        shown["kafka_client"] = {
            k: "********" if is_secret_option(k) else _without_credentials(v) for k, v in self.kafka_client.items()
        }
        return shown

    def secrets(self) -> list[str]:
        """Return every value that must not be shown: URIs of the database and the registry, and secret Kafka options."""
        uris = [getattr(self, name).get_secret_value() for name in _SECRETS]
        return [*uris, *(v for k, v in self.kafka_client.items() if is_secret_option(k))]

    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables for a child process."""
        out = {}
        for name, value in self.model_dump(mode="json").items():
            if name in _SECRETS:
                value = getattr(self, name).get_secret_value()
            if value is None:
                value = ""  # which stands for the default, whatever this process has inherited
            out[f"{PREFIX}{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
        return out


def is_secret_option(name: str) -> bool:
    """Whether an option of librdkafka holds a secret, by its name."""
    return name not in _OPEN_OPTIONS and any(word in name.lower() for word in _SECRET_WORDS)


def _without_credentials(value: Any) -> Any:
    if isinstance(value, str):
        return _CREDENTIALS.sub(lambda match: "********@" if match[0].endswith("@") else "********", value)
    if isinstance(value, list):
        return [_without_credentials(v) for v in value]
    return value


def _from_files() -> dict[str, str]:
    """Return the values of settings that are in files (mounted secrets), where the variable itself is empty.

    Raises
    ------
    SettingsError
        A file cannot be read.
    """
    out = {}
    for name in _OF_FILES:
        variable = f"{PREFIX}{name.upper()}"
        path = os.environ.get(f"{variable}_FILE", "")
        if not path or os.environ.get(variable):
            continue
        try:
            out[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SettingsError(f"{variable}_FILE={path}: cannot be read: {reason}") from error
    return out


def load_settings(**values: Any) -> Settings:
    """Return the settings of the environment, or the given ones instead of them.

    Raises
    ------
    SettingsError
        Every value that cannot be used is named by its variable; secret values are not shown.
    """
    try:
        return Settings(**{**_from_files(), **values})
    except ValidationError as error:
        text = "; ".join(_wrong(e) for e in error.errors(include_url=False, include_input=False))
        raise SettingsError(text) from None


def _wrong(error: Mapping[str, Any]) -> str:
    name, *inner = (str(part) for part in error["loc"])
    shown = os.environ.get(f"{PREFIX}{name.upper()}")
    came = "" if shown is None or name in _HIDDEN else f"={_without_credentials(shown)!r}"
    inside = f" at {'.'.join(inner)}" if inner else ""
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    if name in _JSON:
        message += f"; expected JSON such as {_JSON[name]}"
    return f"{PREFIX}{name.upper()}{came}{inside}: {message}"


def unknown_names(environment: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return the names with our prefix that nothing reads, each with the nearest one that is read."""
    names_read = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    names = sorted(
        n for n in environment if n.upper().startswith(PREFIX) and n.upper() not in names_read | NOT_SETTINGS
    )
    every = sorted(names_read | NOT_SETTINGS)
    return [(n, next(iter(get_close_matches(n.upper(), every, n=1, cutoff=0.8)), None)) for n in names]
