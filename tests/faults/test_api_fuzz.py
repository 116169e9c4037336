"""Requests made from the OpenAPI document, alone and one after the other, by somebody with a token. ``make api-fuzz``."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apdb import Ledger, PostgresApdb
from apdb.queue.dead_letters import DeadLetter, add
from apdb.tap_jobs import create_job
from service.access.tokens import FILE_PRINCIPAL
from tests.support.apdb_rows import at, rows
from tests.support.foreign_fits import good_image
from tests.support.ingest import message
from tests.support.serving import serving

PROGRAM = Path(sys.executable).with_name("schemathesis")
EXAMPLES = int(os.environ.get("ALERTPROD_API_FUZZ", "0"))
TOKEN = "f" * 64
FILES = ("science", "psf", "mask", "variance", "wcs")
VISITS = range(1, 6)
# what visits are submitted, read, cancelled and tried again by, on each change; all of it by the target of its own
SHORT = [
    "--phases", "coverage,stateful", "--max-examples", "2", "--include-path-regex", "^/v1/visits(/[^/]+/[^/]+(/cancel|/retry)?)?$",
]  # fmt: skip
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "positive_data_acceptance", "ignored_auth", "unsupported_method", "use_after_free",
)  # fmt: skip
# Of a request that the document allows: done, who is asking, what is not there, in conflict or too much at the moment.
TAKEN = ["2xx", "303", "401", "403", "404", "409", "429", "503"]
# What no document can say: files and instruments that there are, queries, regions, columns of a table, maps.
SAYS_NO = {
    "422": (
        "/v1/visits", "/v1/objects", "/v1/objects/{object_id}", "/v1/objects/{object_id}/versions", "/v1/sky/overlap",
        "/v1/visits/{visit}/{detector}/sources", "/v1/visits/{visit}/{detector}/forced",
        "/v1/objects/{object_id}/period", "/v1/visits/batch", "/v1/visits/{visit}/{detector}/images/{which}",
        "/v1/templates/{name}/coverage", "/v1/templates/{name}/roll-back", "/v1/templates/{name}/versions/{version}/promote",
        "/v1/dead-letters/{number}/requeue",
    ),
    "400": ("/v1/tap/sync", "/v1/soda/sync"),
}  # fmt: skip


def config(science, jobs, objects, sources):
    """Return the configuration of the program: which answers are right, and values that lead somewhere in most requests."""
    lines = [
        "[checks]", f"positive_data_acceptance.expected-statuses = {TAKEN}",
        'not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]', "[dictionaries]",
    ]  # fmt: skip
    image = [str(science)]
    values = {
        "visit": list(VISITS), "detector": [1], "number": [1, 2, 3, 1101], "job": jobs, "object_id": objects, "source_id": sources,
        "subject": ["alert-packet"], "instrument": ["anycam"], **dict.fromkeys(FILES, image), "midpointMjdTai": [60371.5],
        "wait": [0, 0.2], "QUERY": ["SELECT TOP 3 diaObjectId, ra FROM DiaObject", "SELECT count(*) FROM DiaSource"],
    }  # fmt: skip
    places = {
        "path": ("visit", "detector", "number", "job", "object_id", "source_id", "subject"), "query": ("QUERY",),
        "body": ("visit", "instrument", *FILES, "midpointMjdTai", "QUERY"),
    }  # fmt: skip
    lines += [f"{name} = {{ values = {given} }}" for name, given in values.items()]
    lines += ["[parameters]", '"query.wait" = { dictionary = "wait", probability = 1.0 }']  # a minute is allowed
    for place, names in places.items():
        lines += [f'"{place}.{n}" = {{ dictionary = "{n}", probability = 0.9 }}' for n in names]
    for status, paths in SAYS_NO.items():
        for path in paths:
            lines += ["[[operations]]", f'include-path = "{path}"']
            lines.append(f"checks.positive_data_acceptance.expected-statuses = {[*TAKEN, status]}")
    return "\n".join(lines)


def filled(database, folder):
    """Fill a database with a little of everything; returns ids of queries, objects and detections."""
    for visit in VISITS:
        Ledger(database).submit(message(folder, visit), visit, 1)
    objects, sources, forced = rows(20)
    client = PostgresApdb(database.uri)
    client.store(at(61001.0), objects, sources, forced)
    client.close()
    with database.session() as connection:
        for k in range(3):
            value = json.dumps(message(folder, 100 + k)).encode()
            add(connection, DeadLetter("visits", 0, k, None, value, [], None, "bad_message", "no instrument"))
        jobs = [create_job(connection, FILE_PRINCIPAL, {"QUERY": "SELECT TOP 1 ra FROM DiaObject"}) for _ in range(4)]
    return jobs, objects.diaObjectId.tolist()[:5], sources.diaSourceId.tolist()[:5]


@pytest.mark.skipif(not PROGRAM.exists(), reason="schemathesis is not installed")
@pytest.mark.timeout(3000)
def test_answers_are_those_of_the_document(database, tmp_path, record_property, monkeypatch):
    """No fault, no status, type or content that is not documented, no valid request refused, none let in without a token."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "anycam.yaml").write_text(
        "name: anycam\npixel_scale: 0.36\ngain: {constant: 1.5}\nvariance: gain\nband: {constant: r}\nband_map: {r: r}\n"
    )
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", str(tmp_path))
    science = good_image(tmp_path / "a.fits")
    (tmp_path / "schemathesis.toml").write_text(config(science, *filled(database, tmp_path)))
    own = {"access": "tokens", "admin_token_file": tmp_path / "token", "rate_limit": 0}
    with serving(database, tmp_path, **own) as client:
        done = subprocess.run(
            [
                str(PROGRAM), "--config-file", str(tmp_path / "schemathesis.toml"), "run", f"{client.base_url}/openapi.json",
                "--header", f"Authorization: Bearer {TOKEN}", "--checks", ",".join(CHECKS), *(["--max-examples", str(EXAMPLES)] if EXAMPLES else SHORT),
                "--exclude-path-regex", "events$|^/live$", "--request-timeout", "70", "--workers", "1", "--seed", "1",
                "--no-color",
            ],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=2700,
        )  # fmt: skip
        assert client.get("/healthz").status_code == 200
    print(done.stdout[-20000:], done.stderr[-2000:])
    assert done.returncode == 0, done.stdout[-8000:]
    record_property("examples of each operation", EXAMPLES or "short form")
    record_property("requests", re.search(r"(\d+) generated", done.stdout)[1])
