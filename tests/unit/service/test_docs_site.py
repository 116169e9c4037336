"""The built documentation below /docs/: its own files and no others, scripts by their hashes, a word where it is not built."""

import base64
import hashlib

import pytest

from tests.support.asking import asker

SCRIPT = "document.documentElement.dataset.mode = 'dark';"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    (root / "html" / "howto").mkdir(parents=True)
    (root / "secret.txt").write_text("secret")
    (root / "html" / "link.txt").symlink_to(root / "secret.txt")
    (root / "html" / "index.html").write_text(f'<script>{SCRIPT}</script><script src="a.js"></script>')
    (root / "html" / "howto" / "index.html").write_text("guides")
    (root / "html" / "a.js").write_text("1")
    return root / "html"


def test_files_of_the_folder_are_answered_and_no_others(folder, tmp_path):
    ask, _ = asker(tmp_path, docs_dir=folder)
    page = ask("GET", "/docs/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    scripts = next(p for p in page.headers["content-security-policy"].split("; ") if p.startswith("script-src"))
    assert scripts == f"script-src 'self' 'sha256-{digest}'"
    assert ask("GET", "/docs/howto/").text == "guides"
    assert ask("GET", "/docs/a.js").headers["content-type"].startswith("text/javascript")
    for path in (
        "/docs/link.txt",
        "/docs/%2e%2e/secret.txt",
        "/docs/nothing.html",
        f"/docs/{folder.parent}/secret.txt",
    ):
        answer = ask("GET", path)
        assert (answer.status_code, answer.text == "secret") == (404, False), path


def test_where_it_is_not_built_the_answer_says_how(tmp_path):
    answer = asker(tmp_path)[0]("GET", "/docs/tutorial.html")
    assert answer.status_code == 404
    assert "make docs" in answer.json()["detail"]
