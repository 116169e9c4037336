"""What an embedded broker has of earlier ones: a storage that was formatted, and an archive of Java's classes."""

import os
from pathlib import Path

import pytest

from service.local.embedded_kafka import copy_storage
from service.subprocesses.java_classes import archive_options, new_archive

FACTS = "#\nnode.id=1\ndirectory.id=p37sdl-j77iylidMksFLqQ\nversion=1\ncluster.id=Abcdefghijklmnopqrstuw\n"


def facts(folder):
    return dict(line.split("=") for line in (folder / "meta.properties").read_text().splitlines() if "=" in line)


def test_copies_are_of_clusters_of_their_own(tmp_path):
    first = tmp_path / "formatted"
    first.mkdir()
    (first / "meta.properties").write_text(FACTS)
    (first / "bootstrap.checkpoint").write_bytes(b"\x00\x47")
    for name in ("a", "b"):
        copy_storage(first, tmp_path / name)
        assert (tmp_path / name / "bootstrap.checkpoint").read_bytes() == b"\x00\x47"
    found = [facts(tmp_path / name) for name in ("formatted", "a", "b")]
    assert [f["node.id"] for f in found] == ["1", "1", "1"]
    assert [f["version"] for f in found] == ["1", "1", "1"]
    identities = {f[name] for f in found for name in ("cluster.id", "directory.id")}
    assert len(identities) == 6
    assert {len(identity) for identity in identities} == {22}


def test_what_is_there_is_left_and_nothing_beside_it(tmp_path):
    for name in ("formatted", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.properties").write_text(FACTS if name == "formatted" else "mine")
    with pytest.raises(OSError, match="a"):
        copy_storage(tmp_path / "formatted", tmp_path / "a")
    assert (tmp_path / "a" / "meta.properties").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "formatted"]


@pytest.fixture
def java(tmp_path, monkeypatch):
    """A program of that name."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin" / "java"


def test_classes_are_archived_once_by_one_process_and_for_each_java(tmp_path, java):
    jars = tmp_path / "jars"
    jars.mkdir()
    assert archive_options(jars) == []
    with new_archive(jars) as first:
        with new_archive(jars) as second:
            assert second is None
        first.write_bytes(b"classes")
        assert archive_options(jars) == []
    with new_archive(jars) as again:
        assert again is None
    (option,) = archive_options(jars)
    flag, _, path = option.partition("=")
    assert flag == "-XX:SharedArchiveFile"
    assert Path(path).read_bytes() == b"classes"
    os.utime(java, (1, 1))
    assert archive_options(jars) == []
    with new_archive(jars) as other:
        assert other is not None


def test_an_archive_that_java_does_not_write_is_not_asked_for_again(tmp_path, java):
    with new_archive(tmp_path) as archive:
        assert archive is not None
    with new_archive(tmp_path) as again:
        assert again is None
    assert archive_options(tmp_path) == []
