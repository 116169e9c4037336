"""What a command says that it was given stays one line."""

from service.commands.main import _shortened


def test_many_files_behind_an_option_are_counted():
    headers = [f"h/{n}.hdr" for n in range(412)]
    given = ["--sources", "a", "b", "c", "--headers", *headers, "-c", "x=1", "--json", "--out", "fit"]
    assert _shortened(given) == "--sources a b c --headers h/0.hdr (and 411 more) -c x=1 --json --out fit"
