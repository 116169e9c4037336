"""The storage of an embedded broker is copied from one that was formatted before."""

import pytest

from service.local.embedded_kafka import copy_storage

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
