"""Links of the built documentation that lead nowhere are found."""

from tools.check_links import broken_links


def test_links_to_missing_files_and_anchors_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="#top"></a><a href="#gone"></a><a href="a/"></a><a href="a/b%20c.html#x"></a>'
        '<a href="https://example.org/none"></a><img src="none.png?v=1"><a href="a/b%20c.html#y"></a>'
    )
    (tmp_path / "a" / "index.html").write_text('<a href="../index.html#top"></a>')
    (tmp_path / "a" / "b c.html").write_text('<p id="x"></p>')
    found = {link for _, link in broken_links(tmp_path)}
    assert found == {"#gone", "none.png?v=1", "a/b%20c.html#y"}
