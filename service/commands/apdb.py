"""The command line of the database: ``alertprod apdb create|status|partitions|archive|restore|vacuum-advice|migrate|deduplicate|renew|precover|reader``."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from service.commands.options import DryRun, Json, open_database, read_settings
from service.terminal import print_table, progress, say

__all__ = ["apdb_app"]

apdb_app = typer.Typer(no_args_is_help=True, help="The Alert Production Database.")
partitions_app = typer.Typer(no_args_is_help=True, help="Monthly partitions.")
apdb_app.add_typer(partitions_app, name="partitions")


def _today() -> float:
    from apdb.schema.partitions import mjd_of

    return mjd_of(datetime.now(UTC))


def _show(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    """Print rows as JSON on standard output, or as a table."""
    if as_json:
        print(json.dumps(rows, default=str))
        return
    if not rows:
        say(f"{title}: none")
        return
    text = [
        [f"{v:,}" if isinstance(v, int) else f"{v:g}" if isinstance(v, float) else str(v) for v in row.values()]
        for row in rows
    ]
    print_table(tuple(rows[0]), text, title)


@apdb_app.command()
def create(
    ahead: Annotated[int, typer.Option(help="months whose partitions are made ahead")] = 3, as_json: Json = False
) -> None:
    """Make all tables of a new database (or bring an old one up to date), and the partitions of the next months."""
    from apdb.schema.partitions import ensure_months
    from migrations.run import migrate as run

    database = open_database(migrated=False)
    run(database.uri)
    with database.session() as connection:
        months = ensure_months(connection, _today(), ahead)
    _show([{"database": database.label, "partitionsMade": len(months)}], as_json, "created")


@apdb_app.command()
def status(as_json: Json = False) -> None:
    """Show versions, tables, sizes and the archive."""
    from apdb.operate.archive import archived
    from apdb.operate.health import table_sizes

    with open_database().session() as connection:
        versions = dict(connection.execute("SELECT name, value FROM metadata WHERE name LIKE 'version:%'").fetchall())
        tables, kept = table_sizes(connection), [vars(a) for a in archived(connection)]
    if as_json:
        print(json.dumps({"versions": versions, "tables": tables, "archive": kept}))
        return
    _show([versions], False, "versions")
    _show(tables, False, "tables")
    _show(kept, False, "archive")


@partitions_app.command("list")
def list_partitions(as_json: Json = False) -> None:
    """List the attached partitions."""
    from apdb.schema.partitions import partitions

    with open_database().session() as connection:
        _show([vars(p) for p in partitions(connection)], as_json, "partitions")


@partitions_app.command("create")
def create_partitions(
    at: Annotated[float | None, typer.Option(help="MJD in the first month; now by default")] = None,
    ahead: Annotated[int, typer.Option(min=0, max=120, help="months after it")] = 3,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make partitions ahead of time, online."""
    from apdb.schema.partitions import ensure_months, missing_months

    with open_database().session() as connection:
        first = _today() if at is None else at
        months = missing_months(connection, first, ahead) if dry_run else ensure_months(connection, first, ahead)
    _show([{"partition": name} for name in months], as_json, "would be made" if dry_run else "made")


@apdb_app.command()
def archive(
    to: Annotated[str, typer.Option(help="directory or fsspec URL for the Parquet files")],
    keep_months: Annotated[
        int,
        typer.Option(
            min=13,
            help="whole months before the running one that stay; with 13, histories (360 days) of the running and the last month are whole",
        ),
    ] = 14,
    drop: Annotated[bool, typer.Option(help="also drop what is archived, after its file was checked again")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write old months, and rows that came late for them, to Parquet and detach them; with --drop, drop those that are archived.

    Without --drop the detached tables stay, and no disk is freed. A file is read back before its month is detached.
    """
    from apdb.operate.archive import archive_partition, archived, drop_archived, old_partitions
    from apdb.schema.partitions import month_bounds

    database = open_database()
    with database.session() as connection:
        old = old_partitions(connection, month_bounds(_today(), -keep_months)[1])
        actions: list[dict[str, Any]] = []
        for partition in old:
            if dry_run:
                actions.append({"partition": partition.name, "action": "archive and detach", "rows": partition.rows})
                continue
            with progress(f"{partition.name}, rows", partition.rows, as_json) as step:
                item = archive_partition(connection, partition, to, step)
            actions.append({"partition": item.partition, "action": "archived", "rows": item.rows, "file": item.file})
        for item in archived(connection) if drop else []:
            if item.state == "detached":
                if not dry_run:
                    drop_archived(connection, item)
                actions.append(
                    {"partition": item.partition, "action": "drop" if dry_run else "dropped", "rows": item.rows}
                )
    _show(actions, as_json, "would be done" if dry_run else "done")


@apdb_app.command()
def restore(
    partition: Annotated[str, typer.Argument(help="name of the partition, as DiaSource_2025m11")], as_json: Json = False
) -> None:
    """Attach an archived month again, with all that was archived of it or came since (from its files, where tables were dropped).

    Rows of objects that were merged meanwhile go to those that stayed.
    """
    from astropy.time import Time

    from apdb.errors import NotFound
    from apdb.operate.archive import archived
    from apdb.operate.restore import restore_partition
    from apdb.schema.columns import published_schema
    from apdb.visit.merge import follow_merges
    from apdb.visit.unit_of_work import VisitUnitOfWork

    with open_database().session() as connection:
        copies = archived(connection, partition)
        if not copies:
            raise NotFound(f"{partition} is not in the archive: see 'alertprod apdb status'")
        with progress(f"{partition}, rows", sum(c.rows for c in copies), as_json) as step, connection.transaction():
            rows, now = restore_partition(connection, copies[0], step), float(Time.now().tai.mjd)
            chunk = VisitUnitOfWork(connection).replica_chunk(now)
            follow_merges(connection, published_schema(), partition, now, chunk)
    _show([{"partition": partition, "rows": rows}], as_json, "restored")


@apdb_app.command("vacuum-advice")
def vacuum_advice(as_json: Json = False) -> None:
    """Say where vacuum, ANALYZE or new partitions are needed, and with which command (changes nothing)."""
    from apdb.operate.health import advice

    with open_database().session() as connection:
        _show([vars(a) for a in advice(connection)], as_json, "advice")


@apdb_app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="head, base (drops everything) or a revision")] = "head",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Bring the database to a schema revision, online: a table in use for longer than 5 s ends it with nothing changed."""
    from migrations.run import migrate as run
    from migrations.run import pending

    uri = open_database(migrated=False).uri
    steps = pending(uri, revision)
    unread = [] if dry_run else run(uri, revision)
    _show(steps, as_json, "would be applied" if dry_run else "applied")
    _say_unread(unread)


@apdb_app.command()
def deduplicate(
    radius: Annotated[float, typer.Option(min=0.0, help="arcsec: objects closer than this become one")] = 0.5,
    since: Annotated[
        float | None, typer.Option(help="MJD (TAI): only objects that changed since; all by default")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Merge objects that came too close: sources move to the older one, the other is closed (safe beside the service)."""
    from astropy.time import Time

    from association.deduplicate import EVER
    from association.deduplicate import deduplicate as run

    database = open_database()
    with progress("patches", quiet=as_json) as step:
        report = run(
            database.connect,
            radius,
            float(Time.now().tai.mjd),
            since_mjd_tai=EVER if since is None else since,
            dry_run=dry_run,
            progress=step,
        )
    _show([vars(report)], as_json, "would be done" if dry_run else "done")


@apdb_app.command("renew")
def renew_objects(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Make objects anew that have withdrawn sources: once after an update from a version that left their counts and means as they were."""
    from astropy.time import Time

    from apdb.visit.repair import renew_marked

    now, settings = float(Time.now().tai.mjd), read_settings()
    limits = settings.earliest_mjd, now + settings.future_days
    with progress("objects", quiet=as_json) as step:
        report = renew_marked(open_database(), now, dry_run=dry_run, limits=limits, progress=step)
    _show([vars(report)], as_json, "would be done" if dry_run else "done")
    _say_unread(report.unread)
    if report.unread:
        raise typer.Exit(1)


def _say_unread(months: Sequence[str]) -> None:
    """Tell of archived months whose files cannot be read: of objects in them nothing is known, and no source of theirs may leave."""
    if months:
        typer.echo(
            f"the files of {', '.join(months)} cannot be read: visits with objects of these months cannot be taken back until "
            "'alertprod apdb renew' ran where they can, or 'alertprod apdb restore' brought them back",
            err=True,
        )


@apdb_app.command()
def precover(
    days: Annotated[float, typer.Option(min=0.0, help="days back from the end within which it is measured")] = 30.0,
    founded_within: Annotated[float, typer.Option(min=0.0, help="days: objects first detected since then")] = 3.0,
    at: Annotated[float | None, typer.Option(help="MJD (TAI): end of the time looked at; now by default")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure young objects on the stored differences (ALERTPROD_PRODUCTS_DIR) from before they were found."""
    from astropy.time import Time

    from association.precovery import PrecoveryWindow
    from association.precovery import precover as run
    from service.processing.instruments import checked_instrument
    from service.processing.products import StoredDifferences

    now = float(Time.now().tai.mjd)
    stored = StoredDifferences(read_settings().products_dir)
    database = open_database()
    with progress("visits", quiet=as_json) as step:
        window = PrecoveryWindow(now if at is None else at, days, founded_within)
        report = run(
            database.connect,
            stored,
            lambda v: checked_instrument(v.instrument).packer(),
            window,
            now,
            dry_run=dry_run,
            progress=step,
        )
    _show([vars(report)], as_json, "would be done" if dry_run else "done")


@apdb_app.command()
def reader(
    role: Annotated[str, typer.Argument(help="name of the role")],
    password_file: Annotated[
        typer.FileText | None, typer.Option(help="file with the password; none by default")
    ] = None,
    timeout_s: Annotated[int, typer.Option(min=1, help="time limit of a statement")] = 30,
    connections: Annotated[int, typer.Option(min=1, help="sessions at a time")] = 10,
) -> None:
    """Make (or renew) a read-only role for dashboards and notebooks: it reads the views and two functions, and no table.

    Run it again for another password or other limits, and after an update that brings views.
    """
    from apdb.operate.readers import make_reader

    secret = None if password_file is None else password_file.read().strip()
    with open_database().session() as connection:
        make_reader(connection, role, secret, timeout_s=timeout_s, connections=connections)
    say(f"role {role} may read the views; see docs/database.md")
