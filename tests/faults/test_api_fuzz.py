"""Requests made from the OpenAPI document, alone and one after the other, by somebody with a token. ``make api-fuzz``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from apdb import Ledger
from tests.support.ingest import message
from tests.support.serving import serving

PROGRAM = Path(sys.executable).with_name("schemathesis")
EXAMPLES = int(os.environ.get("ALERTPROD_API_FUZZ", "0"))
TOKEN = "f" * 64
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "positive_data_acceptance", "ignored_auth", "unsupported_method", "use_after_free",
)  # fmt: skip


@pytest.mark.skipif(EXAMPLES == 0 or not PROGRAM.exists(), reason="'make api-fuzz', with schemathesis")
@pytest.mark.timeout(3000)
def test_answers_are_those_of_the_document(database, tmp_path, record_property):
    """No fault, no status, type or content that is not documented, no valid request refused, none let in without a token."""
    (tmp_path / "token").write_text(TOKEN)
    for visit in range(1, 6):
        Ledger(database).submit(message(tmp_path, visit), visit, 1)
    own = {"access": "tokens", "admin_token_file": tmp_path / "token", "rate_limit": 0}
    (tmp_path / "schemathesis.toml").write_text(
        '[checks]\npositive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429", "503"]\n'
    )
    with serving(database, tmp_path, **own) as client:
        done = subprocess.run(
            [
                str(PROGRAM), "--config-file", str(tmp_path / "schemathesis.toml"), "run", f"{client.base_url}/openapi.json",
                "--header", f"Authorization: Bearer {TOKEN}", "--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES),
                "--exclude-path-regex", "events$", "--request-timeout", "20", "--workers", "1", "--seed", "1", "--no-color",
            ],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert client.get("/healthz").status_code == 200
    print(done.stdout[-20000:], done.stderr[-2000:])
    assert done.returncode == 0, done.stdout[-8000:]
    record_property("examples of each operation", EXAMPLES)
