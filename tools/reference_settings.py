"""The settings of the reference: every variable, its limits, its default, and what happens at its edges."""

import json
from typing import Any

from tools.markdown import code, table

__all__ = ["EDGES", "OTHER_VARIABLES", "settings_page"]

# by setting: what follows where it is reached, left out or 0
EDGES = {
    "database_uri": "Every role needs it; ALERTPROD_DATABASE_URI_FILE names a file with it",
    "kafka_brokers": "The relay and the ingest need them; without them alerts wait in the outbox",
    "alert_topic": "NAME.corrections and NAME.progress lie beside it. A new name begins with alerts that are not published yet",
    "visit_topic": "NAME.dlq takes what cannot be entered",
    "data_roots": "A file outside is refused (forbidden_location); links are followed first",
    "alert_fan_out": "A filter that is not understood ends the relay at its start (alert_filter)",
    "alert_partitions": "A topic that is there keeps its own",
    "transactional_id": "Two relays with one id: the older is shut out; of another database: progress_conflict",
    "forced_positions": "Read when a worker starts. Fluxes are written to ALERTPROD_PRODUCTS_DIR (`positions_VISIT_DETECTOR_ATTEMPT.parquet`); "
    "without it nothing is measured",
    "earliest_mjd": "An earlier exposure is refused (time_refused)",
    "future_days": "A later exposure is refused (time_refused)",
    "alert_veto": "A metric that is missing or NaN holds the alerts, too (`was not measured`). The sources are stored; "
    "`alertprod alerts held`, `release`, `drop`. Not the `qualityGate` of the subtraction, which can fail the visit",
    "admin_token_file": "Read again when it changes",
    "docs_dir": "Without it /docs/ is not answered",
    "rate_limit": "Beyond it 429 (too_many_requests)",
    "visits_per_day": "Beyond it 429 (quota_exceeded) until midnight, UTC",
    "max_submits": "Beyond it 503 with Retry-After",
    "max_viewers": "Beyond it 503 with Retry-After; a GET that waits is answered at once",
    "lease_s": "The visit is tried again, alone in its worker, and the failure counts",
    "job_timeout_s": "The attempt counts as a failure; the next one runs alone in its worker",
    "job_memory_gb": "The attempt counts as a failure; the next one runs alone in its worker",
    "attempts": "`sky_busy`, `waiting` and `worker_stopped` are no failures. With 1 nothing is tried again",
    "retry_s": "After failures 1, 2, 3, ...: once, twice, four times it, 600 s at most. 0: at once",
    "drain_s": "What is not done by then goes back to the queue and counts as no failure (worker_stopped). 0: at once",
    "order_wait_s": "Counted from when the visit came; after it the visit goes first. 0: no visit waits",
    "image_wait_s": "`imageWaitS` of a message goes before. 0: the image must be there",
    "max_upload_mb": "Beyond it 413 (too_large)",
    "header_timeout_s": "Beyond it 408 (request_timeout)",
    "body_timeout_s": "Beyond it 408 (request_timeout)",
    "metrics_port": "Asks for no token",
    "products_dir": "Without it no difference image is kept: no cutouts, no `apdb precover`, no forced positions",
}  # fmt: skip
# variables that are no settings; those that tests alone read are left out
OTHER_VARIABLES = {
    "DATABASE_URI_FILE": "file that holds the value of ALERTPROD_DATABASE_URI",
    "SCHEMA_REGISTRY_FILE": "file that holds the value of ALERTPROD_SCHEMA_REGISTRY",
    "KAFKA_CLIENT_FILE": "file that holds the value of ALERTPROD_KAFKA_CLIENT",
    "INSTRUMENTS": "directories of instrument files, separated as in PATH; looked through before those of the program",
    "THREADS": "threads of one process that computes; by default all cores that it may use",
    "DEBUG": "1: show the traceback of what fails, as --debug",
    "API_URL": "API that commands ask instead of the database",
    "TOKEN_FILE": "file with the token for that API",
    "TOKEN": "the token itself, where there is no such file",
    "JOB_SERVER_S": "seconds after the last job for which `alertprod-job` keeps its server; 60 by default, 0: none is started",
    "KAFKA_JARS": "directory of the jars of the broker that `alertprod up` starts",
}


def settings_page() -> str:
    """Every setting: variable, what it is, type, default."""
    from service.settings import PREFIX, Settings

    rows = (
        (code(f"{PREFIX}{name.upper()}"), _words(name, field), code(_kind(field)), code(_shown(field.default)))
        for name, field in Settings.model_fields.items()
    )
    others = table(
        ("variable", "what it is"), ((code(f"{PREFIX}{name}"), words) for name, words in OTHER_VARIABLES.items())
    )
    return (
        "# Settings\n\nEnvironment variables; lists and mappings are JSON. An empty variable stands for the default; a name that is no setting is told on standard error. "
        "`alertprod config` prints the effective values. [Operations](../../operations.md) and [security](../../security.md) say "
        f"what follows from them. Names in brackets are [error codes](../../errors/README.md).\n\n"
        f"{table(('variable', 'what it is', 'type', 'default'), rows)}\n"
        "## Variables that are no settings\n\nRead by the command line and by what lies below the service; `alertprod config` does not print "
        f"them.\n\n{others}"
    )


def _words(name: str, field: Any) -> str:
    return f"{field.description}. {EDGES[name]}" if name in EDGES else field.description


def _shown(value: Any) -> str:
    from pydantic import SecretStr

    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    return json.dumps(plain, default=str)


def _kind(field: Any) -> str:
    text = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    plain = text.replace("typing.", "").replace("pathlib.", "").replace("SecretStr", "str, secret")
    names = {"ge": "at least", "gt": "more than", "le": "at most"}
    limits = [f"{names[n]} {getattr(m, n):g}" for m in field.metadata for n in names if hasattr(m, n)]
    return ", ".join([plain, *limits])
