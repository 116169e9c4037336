"""TLS to PostgreSQL with verify-full: only the server of that name, with a certificate of our authority, is talked to."""

import os
import time

import psycopg
import pytest

from apdb import Database
from apdb.errors import DatabaseUnavailable
from tests.support.certificates import authority, keystore


@pytest.fixture(scope="module")
def secure(postgres, server_dir):
    """The server with a certificate for 127.0.0.1; gives its URI and the directory of the authorities."""
    folder = server_dir / "database-tls"
    folder.mkdir()
    pem = keystore(folder, *authority(folder, "authority"))
    foreign = keystore(folder, *authority(folder, "stranger"), name="foreign", host="db.example")
    owner = (postgres.directory / "data").stat()
    for path in (pem, foreign):
        path.chmod(0o600)
        os.chown(path, owner.st_uid, owner.st_gid)

    def speak(certificate):
        with psycopg.connect(postgres.uri, autocommit=True) as connection:
            for name in ("ssl_cert_file", "ssl_key_file"):
                connection.execute(f"ALTER SYSTEM SET {name} = '{certificate}'")
            connection.execute("ALTER SYSTEM SET ssl = on")
            connection.execute("SELECT pg_reload_conf()")
        deadline, now = time.monotonic() + 10, None
        while now != str(certificate):  # the server reads it when it comes to it
            assert time.monotonic() < deadline
            with psycopg.connect(postgres.uri) as connection:
                now = connection.execute("SHOW ssl_cert_file").fetchone()[0]

    yield speak, pem, foreign, folder
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        for name in ("ssl", "ssl_cert_file", "ssl_key_file"):
            connection.execute(f"ALTER SYSTEM RESET {name}")
        connection.execute("SELECT pg_reload_conf()")


def verified(postgres, folder, ca="authority", host="127.0.0.1"):
    uri = postgres.uri.replace("127.0.0.1", host)
    return Database(f"{uri}?sslmode=verify-full&sslrootcert={folder / ca}.pem&hostaddr=127.0.0.1")


def test_the_right_server_is_talked_to_and_no_other(postgres, secure):
    speak, pem, foreign, folder = secure
    speak(pem)
    good = verified(postgres, folder)
    with good.session() as connection:
        ours = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert ours[0] is True
    assert ours[1] in ("TLSv1.2", "TLSv1.3")
    engine = good.engine()
    with engine.connect() as work:  # schema work goes the same way
        assert work.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").scalar() is True
    engine.dispose()
    with (
        pytest.raises(DatabaseUnavailable, match="certificate verify failed"),
        verified(postgres, folder, "stranger").session(),
    ):
        pass
    with (
        pytest.raises(DatabaseUnavailable, match="does not match host name"),
        verified(postgres, folder, host="db.example").session(),
    ):
        pass
    speak(foreign)
    with pytest.raises(DatabaseUnavailable, match="certificate verify failed"), verified(postgres, folder).session():
        pass
