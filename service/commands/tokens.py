"""The command line of tokens: ``alertprod tokens create|list|revoke|record``."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.options import Json, open_database, operator
from service.terminal import print_table, say

__all__ = ["tokens_app"]

tokens_app = typer.Typer(
    no_args_is_help=True, help="Tokens of the HTTP API, and the record of what was done with them."
)


def _enter(action: str, target: str, detail: dict[str, Any] | None = None) -> None:
    from apdb.access.record import Act, record

    with open_database().session() as connection:
        record(connection, Act(operator(), action, target, detail=detail))


@tokens_app.command()
def create(
    name: Annotated[str, typer.Argument(help="who or what it is for; quotas and the record go by this name")],
    scope: Annotated[list[str], typer.Option(help="read, submit, operate or admin (repeat)")],
    days: Annotated[float, typer.Option(help="days for which it is good")] = 90.0,
    out: Annotated[
        Path | None, typer.Option(help="write it to this new file, for its owner alone, not to the screen")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token and show it, once: only its hash is kept.

    --out makes a file that its owner alone may read (mode 0600); one that is there is not written over (output).
    """
    from service.access.tokens import make_token
    from service.errors import OutputError

    database = open_database()
    try:
        file = None if out is None else os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OutputError(f"--out {out}: {error.strerror}: name a file that is not there") from error
    token_id, token = make_token(database, name, scope, days, operator())
    _enter("tokens create", token_id, {"name": name, "scopes": scope, "days": days})
    if file is not None:
        with os.fdopen(file, "w") as stream:
            stream.write(f"{token}\n")
    shown = {} if file is not None else {"token": token}
    if as_json:
        print(json.dumps({"tokenId": token_id, "name": name, "scopes": scope, "days": days, **shown}))
        return
    say(f"token {token_id} for {name}: {', '.join(scope)}, for {days:g} days; it cannot be shown again")
    print(token if file is None else out)


@tokens_app.command("list")
def list_all(
    ended: Annotated[bool, typer.Option("--ended", help="also browser sessions that have ended")] = False,
    as_json: Json = False,
) -> None:
    """List tokens and browser sessions (never their secrets): scopes, expiry, last use."""
    from apdb.access.tokens import list_tokens

    with open_database().session() as connection:
        listed = [t for t in list_tokens(connection) if ended or t.state == "valid" or not t.is_session]
    if as_json:
        rows = [
            {
                "tokenId": t.token_id,
                "name": t.name,
                "scopes": t.scopes,
                "state": t.state,
                "createdBy": t.created_by,
                "createdAt": t.created_at.isoformat(),
                "expiresAt": t.expires_at.isoformat(),
                "lastUsedAt": t.last_used_at and t.last_used_at.isoformat(),
                "revokedAt": t.revoked_at and t.revoked_at.isoformat(),
                "revokedBy": t.revoked_by,
            }
            for t in listed
        ]
        print(json.dumps(rows))
        return
    print_table(
        ("id", "name", "scopes", "state", "expires", "last used", "made by"),
        [
            (
                t.token_id,
                t.name,
                " ".join(t.scopes),
                t.state,
                f"{t.expires_at:%Y-%m-%d %H:%M}",
                "never" if t.last_used_at is None else f"{t.last_used_at:%Y-%m-%d %H:%M}",
                t.created_by,
            )
            for t in listed
        ],
    )


@tokens_app.command()
def revoke(token_id: Annotated[str, typer.Argument(help="as 'alertprod tokens list' shows it")]) -> None:
    """Make a token useless, within seconds and for ever."""
    from apdb.access.tokens import revoke_token

    with open_database().session() as connection:
        revoke_token(connection, token_id, operator())
    _enter("tokens revoke", token_id)
    say(f"token {token_id} is revoked")


@tokens_app.command()
def record(
    principal: Annotated[str | None, typer.Option(help="of this name only")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=100_000, help="the newest so many")] = 100,
    as_json: Json = False,
) -> None:
    """Show who submitted, changed or was refused what, the newest first."""
    from dataclasses import asdict

    from apdb.access.record import recorded

    with open_database().session() as connection:
        acts = recorded(connection, principal=principal, limit=limit)
    if as_json:
        print(json.dumps([{**asdict(a), "at": a.at.isoformat()} for a in acts]))
        return
    print_table(
        ("at", "who", "what", "on", "status", "from"),
        [
            (f"{a.at:%Y-%m-%d %H:%M:%S}", a.principal, a.action, a.target or "", a.status or "", a.address or "")
            for a in acts
        ],
    )
