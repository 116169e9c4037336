"""The command line of dead letters: ``alertprod dead-letters list|show|requeue|discard``."""

import json
from typing import Annotated, Any

import typer

from service.commands.options import Json, open_database, read_settings
from service.terminal import print_table, say

__all__ = ["dead_letters_app"]

dead_letters_app = typer.Typer(
    no_args_is_help=True, help="Visit messages that could not be entered: looked at, entered again, discarded."
)
Numbers = Annotated[list[int], typer.Argument(help="as list shows them")]
_LONGEST = 2000  # characters of a value that are shown in a table


@dead_letters_app.command("list")
def list_letters(
    state: Annotated[str | None, typer.Option(help="waiting, requeued or discarded; all by default")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=100_000, help="the newest so many")] = 100,
    as_json: Json = False,
) -> None:
    """List dead letters, the newest first."""
    from service.intake.requeue import listed_letters

    letters = listed_letters(open_database(), state, limit, None)
    if as_json:
        print(json.dumps(letters))
        return
    rows = [
        (d["id"], d["state"], _place(d), d["size"], f"{d['error']['code']}: {d['error']['message']}") for d in letters
    ]
    print_table(("number", "state", "from", "bytes", "reason"), rows)


@dead_letters_app.command("show")
def show_letter(number: Annotated[int, typer.Argument(help="as list shows it")], as_json: Json = False) -> None:
    """Show a dead letter: where it came from, why it is one, its key, headers and value."""
    from service.intake.requeue import whole_letter

    letter = whole_letter(open_database(), number)
    if as_json:
        print(json.dumps(letter))
        return
    error = letter.pop("error")
    headers = [(f"header {h['name']}", _text(h["value"])) for h in letter.pop("headers")]
    contents = [(name, _text(letter.pop(name))) for name in ("key", "value")]
    reason = [("reason", f"{error['code']}: {error['message']}"), ("what to do", error["help"])]
    facts = [(name, "-" if value is None else value) for name, value in letter.items()]
    print_table(("what", "value"), [*facts, *reason, *headers, *contents])


@dead_letters_app.command("requeue")
def requeue_letters(numbers: Numbers, as_json: Json = False) -> None:
    """Enter the messages of dead letters again; those that cannot be keep their new reason (exit status 1), the others are entered.

    Numbers are those of `alertprod dead-letters list`; only letters in state waiting can be entered.
    """
    from service.failures import typed
    from service.intake.headers import HeaderReader
    from service.intake.requeue import requeue

    database, settings, failed = open_database(), read_settings(), 0
    headers = HeaderReader(settings, 1)
    results: list[dict[str, Any]] = []
    for number in numbers:
        try:
            visit = requeue(database, number, settings, headers)
            results.append({"id": number, "visit": visit["visit"], "detector": visit["detector"]})
            say(f"dead letter {number}: visit {visit['visit']}, detector {visit['detector']}, {visit['state']}")
        except Exception as error:
            reason, failed = typed(error), failed + 1
            results.append({"id": number, "error": reason.as_dict()})
            say(f"dead letter {number}: {reason.code}: {reason}", error=True)
    headers.close()
    if as_json:
        print(json.dumps(results))
    raise typer.Exit(1 if failed else 0)


@dead_letters_app.command("discard")
def discard_letters(numbers: Numbers) -> None:
    """Set dead letters aside for good; their rows stay."""
    from service.intake.requeue import discard

    database = open_database()
    for number in numbers:
        discard(database, number)
        say(f"dead letter {number} discarded")


def _place(letter: dict[str, Any]) -> str:
    return f"{letter['topic']}[{letter['partition']}]@{letter['offset']}"


def _text(value: dict[str, str] | None) -> str:
    if value is None:
        return "-"
    text = value.get("text", value.get("base64", ""))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters: --json shows all)"
