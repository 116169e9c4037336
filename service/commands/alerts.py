"""The command line of alerts: ``alertprod alerts tail|show|replay|validate|export|check|lag|held|release|drop``."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.options import Detector as OneDetector
from service.commands.options import Json, open_database, read_settings
from service.commands.options import Visit as OneVisit
from service.terminal import print_table, progress

__all__ = ["alerts_app"]

REACH_S = 10.0  # within which the brokers must answer a command

alerts_app = typer.Typer(no_args_is_help=True, help="Alerts: of the topic, of the archive, and those held back.")

Visit = Annotated[int | None, typer.Option(help="visit number")]
Detector = Annotated[int | None, typer.Option(help="detector of the visit")]
Since = Annotated[str | None, typer.Option(help="from this midpoint of exposure: MJD (TAI) or ISO time (UTC)")]
Until = Annotated[str | None, typer.Option(help="before this midpoint of exposure: MJD (TAI) or ISO time (UTC)")]
Object = Annotated[int | None, typer.Option("--object", help="diaObjectId or ssObjectId")]
Filter = Annotated[str | None, typer.Option("--filter", help='expression such as "diaSource.snr > 10"')]


@alerts_app.command()
def tail(
    topic: Annotated[str | None, typer.Option(help="topic; the alert topic by default")] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="end after so many alerts; 0: never")] = 0,
    from_beginning: Annotated[bool, typer.Option(help="all that the topic holds, then what comes")] = False,
    until_end: Annotated[bool, typer.Option(help="end at the end of the topic")] = False,
    filter_: Filter = None,
    as_json: Json = False,
) -> None:
    """Print alerts as they come: those from now on, unless --from-beginning is given.

    It keeps no place: each call reads under a group of its own. It ends with status 1 where no broker answers within 10 s.
    """
    from alerts.consumer import AlertConsumer
    from alerts.delivery.target import require_topics
    from service.commands.archived_alerts import alert_line, writer_id
    from service.delivery import alert_target

    settings = read_settings()
    require_topics(replace(alert_target(settings, quiet=True).only(topic or settings.alert_topic), timeout_s=REACH_S))
    start = "earliest" if from_beginning else "latest"
    with AlertConsumer(
        settings.kafka_brokers,
        topic or settings.alert_topic,
        f"alertprod-tail-{time.time_ns()}",
        client=settings.kafka_client,
        filter=filter_,
        start=start,
        until_end=until_end,
        writer_id=writer_id(settings),
    ) as consumer:
        for seen, alert in enumerate(consumer, 1):
            print(alert_line(alert.packet, as_json), flush=True)
            if seen == count:
                break


@alerts_app.command()
def show(
    source: Annotated[int, typer.Argument(help="diaSourceId")],
    png: Annotated[Path | None, typer.Option(help="draw cutouts and light curve here")] = None,
    fits: Annotated[Path | None, typer.Option(help="directory for the cutouts as FITS files")] = None,
    as_json: Json = False,
) -> None:
    """Print one alert of the archive; draw it, or take its cutouts out.

    Of a visit that was processed anew it is the newest. One that is not there ends it with status 1 (alert).
    """
    from alerts.archive.selection import AlertSelection
    from alerts.archive.store import AlertArchive
    from alerts.errors import AlertError
    from alerts.packets.wire import decode_body
    from service.commands.archived_alerts import print_packet

    database = open_database()
    settings, chosen = read_settings(), AlertSelection(source_id=source)
    rows = chosen.rows(database)
    matches = [a for row in rows for a in chosen.read(AlertArchive(settings.archive_dir), row)]
    if not matches:
        raise AlertError(f"no alert {source} in the archive")
    packet = decode_body(matches[-1].body, matches[-1].schema_id)
    if fits is not None:
        fits.mkdir(parents=True, exist_ok=True)
    for name in ("cutoutDifference", "cutoutScience", "cutoutTemplate"):
        data = packet.pop(name)
        packet[name] = None if data is None else f"{len(data)} bytes"
        if data is not None and fits is not None:
            (fits / f"{source}_{name[6:].lower()}.fits").write_bytes(data)
    if png is not None:
        from alerts.views import draw_alert

        draw_alert(decode_body(matches[-1].body, matches[-1].schema_id), png)
    if as_json:
        print(json.dumps(packet))
        return
    print_packet(packet)


@alerts_app.command()
def replay(
    to: Annotated[str, typer.Option(help="topic to publish on; not the alert topic")],
    visit: Visit = None,
    detector: Detector = None,
    since: Since = None,
    until: Until = None,
    object_id: Object = None,
    filter_: Filter = None,
    dry_run: Annotated[bool, typer.Option(help="count only")] = False,
    as_json: Json = False,
) -> None:
    """Publish alerts of the archive again, on another topic, and their corrections on its topic of corrections.

    The alert topic, those of the fan-out, and their .corrections and .progress are refused. One of --visit, --since, --until and
    --object is needed. The topics are made where they are missing; each message has the header ``replayed``.
    """
    from alerts.delivery.replay import replay as send
    from alerts.delivery.target import ensure_topics
    from alerts.packets.corrections import correction_topic
    from apdb.queue.corrections import Correction, corrections_of_sources
    from service.commands.archived_alerts import ArchivedAlerts, chosen_alerts
    from service.delivery import alert_target, wire_id

    settings = read_settings()
    archived = ArchivedAlerts(chosen_alerts(visit, detector, since, until, object_id), filter_, "replaying")
    if dry_run:
        count = sum(1 for _ in archived)
    else:
        target = alert_target(settings, quiet=True)
        for topic in (to, correction_topic(to)):
            ensure_topics(target.only(topic), settings.alert_partitions, settings.topic_replication, progress=False)
        database = open_database()

        def corrections_of(ids: list[int]) -> list[Correction]:
            with database.session() as connection:
                return corrections_of_sources(connection, ids)

        count = send(archived, target, to, wire_id(settings, database), corrections_of=corrections_of)
    result = {"visits": len(archived.rows), "alerts": count, "topic": to, "dryRun": dry_run}
    print(
        json.dumps(result)
        if as_json
        else f"{count} alerts of {len(archived.rows)} visits {'fit' if dry_run else 'sent'}"
    )


@alerts_app.command()
def validate(
    visit: Visit = None, detector: Detector = None, since: Since = None, until: Until = None, as_json: Json = False
) -> None:
    """Check that alert files are what was written, that every alert fits its schema, and that none is missing; status 1 if any is wrong.

    Without --visit, --since or --until all files are checked.
    """
    from alerts.archive.selection import AlertSelection
    from alerts.archive.store import AlertArchive
    from alerts.archive.validate import validate_row
    from service.commands.archived_alerts import mjd_of_text

    database, archive = open_database(), AlertArchive(read_settings().archive_dir)
    rows = AlertSelection(visit, detector, mjd_of_text(since), mjd_of_text(until)).rows(database)
    problems: list[dict[str, Any]] = []
    count = 0
    with progress("validating", len(rows)) as step:
        for done, row in enumerate(rows, 1):
            count += row.count
            problems += [
                {"visit": row.visit, "detector": row.detector, "file": row.file, "problem": text}
                for text in validate_row(database, archive, row)
            ]
            step(done)
    if as_json:
        print(json.dumps({"files": len(rows), "alerts": count, "problems": problems}))
    else:
        for p in problems:
            print(f"visit {p['visit']}, detector {p['detector']}: {p['problem']}")
        print(f"{len(rows)} files with {count} alerts: {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


@alerts_app.command()
def export(
    out: Annotated[Path, typer.Option(help="Parquet file, nested as the packets are")],
    visit: Visit = None,
    detector: Detector = None,
    since: Since = None,
    until: Until = None,
    object_id: Object = None,
    filter_: Filter = None,
    cutouts: Annotated[bool, typer.Option(help="with the cutouts")] = True,
    as_json: Json = False,
) -> None:
    """Write alerts of the archive to a Parquet file; the memory does not grow with their number.

    One of --visit, --since, --until and --object is needed. A file that is there is replaced when the new one is whole.
    """
    from alerts.archive.parquet import write_parquet
    from alerts.packets.wire import decode_body
    from service.commands.archived_alerts import ArchivedAlerts, chosen_alerts

    archived = ArchivedAlerts(chosen_alerts(visit, detector, since, until, object_id), filter_, "exporting")
    none = {} if cutouts else dict.fromkeys(("cutoutDifference", "cutoutScience", "cutoutTemplate"))
    count = write_parquet(({**decode_body(a.body, a.schema_id), **none} for _, a in archived), out)
    print(json.dumps({"alerts": count, "file": str(out)}) if as_json else f"{count} alerts in {out}")


@alerts_app.command()
def check(as_json: Json = False) -> None:
    """List visits whose alerts are not in the topic as published, or not those that are stored; status 1 if any.

    Role ``reconcile`` counts them. Stored must be published less retracted, visit by visit.
    """
    from alerts.packets.corrections import correction_topic
    from apdb.queue.balance import imbalances
    from apdb.queue.outbox import discrepancies

    settings = read_settings()
    with open_database().session() as connection:
        rows = discrepancies(connection, settings.alert_topic)
        unequal = imbalances(connection, settings.alert_topic, correction_topic(settings.alert_topic))
    told = {(row["visit"], row["detector"]) for row in rows}
    unequal = [row for row in unequal if (row["visit"], row["detector"]) not in told]
    if as_json:
        print(json.dumps([*rows, *unequal], default=str))
    else:
        for row in unequal:
            print(
                f"visit {row['visit']}, detector {row['detector']}: {row['nStored']} sources stored, {row['nPublished']} alerts "
                f"published, {row['nRetracted']} retracted"
            )
        for row in rows:
            print(
                f"visit {row['visit']}, detector {row['detector']}: {row['nInTopic']} of {row['nAlerts']} alerts in the topic"
            )
        print(f"{len(told) + len(unequal)} visits differ")
    if rows or unequal:
        raise typer.Exit(1)


@alerts_app.command()
def lag(as_json: Json = False) -> None:
    """List who reads the alert topic, and how many messages behind they are."""
    from alerts.delivery.lag import reader_lags
    from service.delivery import alert_target

    groups = reader_lags(replace(alert_target(read_settings(), quiet=True), timeout_s=REACH_S))
    if as_json:
        print(json.dumps([{"group": g.group, "state": g.state, "members": g.members, "lag": g.total} for g in groups]))
        return
    print_table(
        ("group", "state", "members", "messages behind", "by partition"),
        [(g.group, g.state, g.members, g.total, ", ".join(f"{p}: {n}" for p, n in g.lag.items())) for g in groups],
    )


@alerts_app.command("held")
def list_held(as_json: Json = False) -> None:
    """List visits whose alerts are held, and why: `qualityGate: veto`, ALERTPROD_ALERT_VETO, or an alert file that cannot be read."""
    from apdb.queue.holds import held

    with open_database().session() as connection:
        rows = held(connection)
    if as_json:
        print(json.dumps(rows, default=str))
        return
    columns = ("visit", "detector", "attempt", "alerts", "why", "since")
    print_table(columns, [tuple(row.values()) for row in rows], title="held")


@alerts_app.command()
def release(visit: OneVisit, detector: OneDetector) -> None:
    """Publish the held alerts of a visit after all: behind what is queued; readers get a correction `released` for each.

    Where none are held it ends with status 1 (not_found).
    """
    from apdb.queue.holds import release_held

    with open_database().session() as connection:
        count = release_held(connection, visit, detector)
    print(f"{count} alerts of visit {visit}, detector {detector} go to the relay")


@alerts_app.command()
def drop(visit: OneVisit, detector: OneDetector) -> None:
    """Never publish the held alerts of a visit; its sources and the alert file stay.

    Where none are held it ends with status 1 (not_found). It cannot be taken back.
    """
    from apdb.queue.holds import drop_held

    with open_database().session() as connection:
        count = drop_held(connection, visit, detector)
    print(f"{count} alerts of visit {visit}, detector {detector} are dropped")
