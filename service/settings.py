"""All settings of the service: environment variables with the prefix ``ALERTPROD_``, secrets from files."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]

_SECRETS = ("database_uri", "schema_registry")


class Settings(BaseSettings):
    """Effective settings; ``alertprod config`` prints them with secrets masked."""

    model_config = SettingsConfigDict(env_prefix="ALERTPROD_", secrets_dir=None, extra="ignore", frozen=True)

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
    transactional_id: str = Field("alertprod-relay", title="Transactional id", description="of the relay's producer")
    schema_registry: SecretStr = Field(
        SecretStr(""), title="Schema registry", description="URL of a Confluent-compatible registry"
    )
    schema_subject: str = Field("alert-packet", title="Subject", description="of the alert schema in the registry")
    cutout_psf: Literal["source", "average", "none"] = Field(
        "source", title="Cutout PSF", description="PSF of the cutouts: at the source, of the whole image, or none"
    )
    template_dir: Path = Field(Path("templates"), title="Templates", description="template sets")
    template_set: str = Field("default", title="Template set", description="set used when a message names none")
    products_dir: Path | None = Field(None, title="Products", description="difference images are kept here when set")
    forced_positions: Path | None = Field(
        None, title="Positions", description="table (id, ra, dec) measured on every image"
    )
    ephemerides_url: str = Field("", title="Ephemeris service", description="URL of a service that answers as MPSky")
    orbits: list[Path] = Field(
        [], title="Orbits", description="MPCORB.DAT, CometEls.txt, or what `alertprod orbits prepare` wrote"
    )
    observatory: str = Field("X05", title="Observatory", description="code of the Minor Planet Center, for `orbits`")
    ephemerides: Path | None = Field(None, title="Ephemerides", description="Parquet table of solar-system positions")
    alert_veto: dict[str, float] = Field(
        {},
        title="Alert veto",
        description="largest value of a count or quality metric; beyond it the visit's alerts are held",
    )
    host: str = Field("127.0.0.1", title="Host", description="address that the API listens on")
    port: int = Field(8080, ge=1, le=65535, title="Port", description="port that the API listens on")
    workers: int = Field(0, ge=0, le=256, title="Workers", description="job processes; 0 is one per core")
    lease_s: float = Field(60.0, gt=0, title="Lease", description="seconds after which a silent worker loses its visit")
    job_timeout_s: float = Field(600.0, gt=0, title="Job time", description="seconds that one visit may take")
    job_memory_gb: float = Field(12.0, gt=0, title="Job memory", description="address space of a job process, GiB")
    attempts: int = Field(3, ge=1, title="Attempts", description="failures after which a visit is given up")
    retry_s: float = Field(5.0, ge=0, title="Retry", description="pause before the next attempt")
    order_wait_s: float = Field(120.0, ge=0, title="Order", description="how long a visit waits for an earlier one")
    poll_s: float = Field(0.2, gt=0, title="Poll", description="pause of an idle worker or relay")
    max_upload_mb: int = Field(1024, gt=0, title="Upload limit", description="largest upload, MiB")
    crash_point: str = Field("", title="Crash point", description="fault tests: die by SIGKILL at this point")

    def database(self) -> str:
        """Return the database URI in the clear (never log it)."""
        return self.database_uri.get_secret_value()

    def masked(self) -> dict[str, Any]:
        """Return the effective values for printing."""
        shown = self.model_dump(mode="json")
        for name in _SECRETS:
            shown[name] = "********" if getattr(self, name).get_secret_value() else ""
        secret = ("password", "secret", "key")
        shown["kafka_client"] = {
            k: "********" if any(s in k for s in secret) else v for k, v in self.kafka_client.items()
        }
        return shown

    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables for a child process."""
        out = {}
        for name, value in self.model_dump(mode="json").items():
            if name in _SECRETS:
                value = getattr(self, name).get_secret_value()
            if value is None:
                continue
            import json

            out[f"ALERTPROD_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
        return out
