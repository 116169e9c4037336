"""What the command line says when something fails: one line, never a traceback unless it is asked for."""

import errno

import psycopg
import pytest
import sqlalchemy
from confluent_kafka import KafkaError, KafkaException

from alerts.errors import BrokerUnavailable
from service.failures import typed
from tasks.errors import CallerError
from tests.support.command_line import run

CASES = [
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/no/where"), "file_not_found", "/no/where"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/b"), "file_not_found", "/a/b"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "file_not_found", "/a"),
    (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "permission_denied", "/root/x"),
    (OSError(errno.EROFS, "Read-only file system", "/ro"), "permission_denied", "/ro"),
    (OSError(errno.ENOSPC, "No space left on device"), "storage_full", "No space left"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "/home/x"), "storage_full", "/home/x"),
    (OSError(errno.EIO, "Input/output error", "/bad"), "storage_unavailable", "/bad"),
    (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "storage_unavailable", "refused"),
    (MemoryError(), "out_of_memory", "memory"),
    (psycopg.OperationalError("connection refused"), "database_unavailable", "refused"),
    (psycopg.errors.UndefinedTable('relation "VisitLedger" does not exist'), "schema_version", "alertprod apdb migrate"),
    (psycopg.errors.InsufficientPrivilege("permission denied for table x"), "permission_denied", "table x"),
    (psycopg.errors.DiskFull("could not extend file"), "storage_full", "extend"),
    (sqlalchemy.exc.OperationalError("SELECT 1", {}, psycopg.OperationalError("gone")), "database_unavailable", "gone"),
    (KafkaException(KafkaError(KafkaError._TRANSPORT, "no broker")), "broker_unavailable", "no broker"),
    (CallerError("as it is"), "bad_input", "as it is"),
    (ZeroDivisionError("division by zero"), "internal", "--debug"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "said"), CASES)
def test_errors_of_others_get_a_code_and_a_text(error, code, said):
    found = typed(error)
    assert found.code == code
    assert said in str(found)


def test_a_kafka_error_is_one_of_the_broker():
    assert isinstance(typed(KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))), BrokerUnavailable)


def test_commands_end_with_one_line(tmp_path):
    lines = [
        "night --instrument nowhere --out out --template-frames a.fits --frames b.fits",
        f"diff {tmp_path}/a.fits b.fits -o c",
        f"instrument check generic {tmp_path}/no.fits",
        f"instrument show {tmp_path}/no.yaml",
        "visits show 1",
        "alerts tail",
        "apdb status",
        "apdb migrate",
        "explain 1 2 3 4",
        f"alerts export --out {tmp_path}/no/where.parquet",
        "alerts lag",
        f"orbits prepare {tmp_path}/no.dat -o x",
        "status",
        "worker",
        "serve",
        "relay",
        "reconcile",
        "ingest",
    ]
    for (status, said), line in zip(run(*lines), lines, strict=True):
        assert status in ("1", "2"), (line, said)
        assert said.count("\n") == 1, (line, said)
        assert said.startswith("alertprod: "), (line, said)
        assert "Traceback" not in said
        assert not said.startswith("alertprod: internal"), (line, said)


def test_the_status_tells_settings_apart_and_debug_shows_where():
    lines = ("status", "instrument show no.yaml", "--debug instrument show no.yaml")
    (wrong, said), (plain, one), (_, debug) = run(*lines, ALERTPROD_PORT="abc", ALERTPROD_LEASE="3")
    assert (wrong, plain) == ("2", "1")
    assert "ALERTPROD_PORT='abc'" in said
    assert "did you mean ALERTPROD_LEASE_S?" in said
    assert one.startswith("alertprod: instrument: ")
    assert one.count("\n") == 1
    assert "Traceback" in debug
