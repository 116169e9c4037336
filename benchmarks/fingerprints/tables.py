"""What fixed tables become: matches, statistics, alerts, rows of the database."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.fingerprints.hashing import Fingerprints, metadata_numbers, moved
from benchmarks.fingerprints.inputs import ARCSEC, MJD, detections, image, random_rows, visit_image
from tasks import make_task

__all__ = ["alerts", "association", "pipeline"]


def association(out: Fingerprints) -> None:
    """Matching, the statistics of objects, matching with bodies of the solar system."""
    from association import associate, match_solar_system, pair_scores, summarize

    rng = np.random.default_rng(3)
    n, m, rows = 300, 400, 6000
    ra, dec = 40 + rng.uniform(0, 0.02, m), rng.uniform(0, 0.02, m)
    errors = {"raErr": 0.1 * ARCSEC, "decErr": 0.1 * ARCSEC}
    objects = pd.DataFrame({"diaObjectId": np.arange(1, m + 1), "ra": ra, "dec": dec} | errors)
    seen = rng.choice(m, n, replace=False)
    sources = pd.DataFrame(
        {
            "diaSourceId": np.arange(1000, 1000 + n),
            "diaObjectId": np.zeros(n, np.int64),
            "ra": ra[seen] + rng.normal(0, 0.3 * ARCSEC, n),
            "dec": dec[seen] + rng.normal(0, 0.3 * ARCSEC, n),
        }
        | errors
    )
    result = associate(sources, objects)
    out.add("associate", result.diaSources)
    out.add("associate.counts", [result.nUpdatedDiaObjects, result.nUnassociatedDiaObjects])
    pairs = pair_scores(sources, objects)
    out.add("associate.pairs", {"score": pairs.score, "separation": pairs.separation})
    flux, err = rng.normal(500, 80, rows), rng.uniform(30, 60, rows)
    flux[::97] = np.nan
    history = pd.DataFrame({
        "diaObjectId": rng.integers(1, m + 1, rows), "diaSourceId": np.arange(rows),
        "midpointMjdTai": rng.uniform(MJD, MJD + 300, rows), "band": rng.choice(list("ugrizy"), rows),
        "ra": rng.normal(40, ARCSEC, rows), "dec": rng.normal(5, ARCSEC, rows), "raErr": 1e-5, "decErr": 1e-5,
        "ra_dec_Cov": 0.0, "psfFlux": flux, "psfFluxErr": err, "scienceFlux": flux + 100, "scienceFluxErr": err,
    })  # fmt: skip
    empty = {"ra": 40.0, "dec": 5.0, "raErr": 1e-5, "decErr": 1e-5, "ra_dec_Cov": 0.0, "nDiaSources": 0,
             "firstDiaSourceMjdTai": np.nan, "lastDiaSourceMjdTai": np.nan}  # fmt: skip
    owners = pd.DataFrame({"diaObjectId": np.arange(1, m + 1)} | empty)
    for plugins in ("default", "all"):
        out.add(f"summarize.{plugins}", summarize(owners, history, plugins=plugins))
    along = np.arange(40.0)[:, None]
    bodies = pd.DataFrame(
        {
            "ssObjectId": np.arange(1, 41),
            "designation": [f"2026 A{k}" for k in range(40)],
            "ephVmag": 20.0,
            "ephRa": sources.ra[:40] + 0.2 * ARCSEC,
            "ephDec": sources.dec[:40],
        }
    )
    for name, vector in (
        ("helio_", [1.9, 1.6, 0.1]),
        ("topo_", [1.1, 0.92, 0.02]),
        ("helio_v", [-0.008, 0.009, 0.001]),
        ("topo_v", [-0.006, 0.002, 0.0011]),
    ):
        bodies[[f"{name}{axis}" for axis in "xyz"]] = np.array(vector) * (1 + 0.001 * along)
    out.add("solarSystem", match_solar_system(sources, bodies).associatedSsSources)


def alerts(out: Fingerprints) -> None:
    """The bytes of alert packets with cutouts and histories."""
    from alerts import AlertInputs, build_alerts, build_packets, encode

    e = image(2.0, 1, changed=True)
    rows = random_rows("DiaSource", 6, 1).assign(
        diaSourceId=np.arange(11, 17),
        diaObjectId=[1, 2, 3, 0, 4, 5],
        ssObjectId=[0, 0, 0, 77, 0, 0],
        x=[30.2, 160.0, 318.9, 100.5, 2.0, 250.25],
        y=[40.7, 160.5, 5.1, 200.0, 300.0, 120.75],
        bboxSize=[20, 40, 60, 200, 30, 30],
    )
    rows.loc[0, "trailFlux"] = np.nan
    objects = random_rows("DiaObject", 5, 2).assign(diaObjectId=np.arange(1, 6))
    history = random_rows("DiaSource", 9, 3).assign(diaObjectId=np.arange(9) % 5 + 1, diaSourceId=np.arange(50, 59))
    past = random_rows("DiaForcedSource", 9, 4).assign(diaObjectId=np.arange(9) % 5 + 1)
    here = random_rows("DiaForcedSource", 5, 5).assign(diaObjectId=np.arange(1, 6), visit=71)
    solar = random_rows("SSSource", 1, 6).assign(diaSourceId=14)
    inputs = AlertInputs(rows, objects, history, past, here, solar, e, e, e)
    for k, alert in enumerate(build_alerts(inputs)):
        out.add(f"alerts.{k}", bytes(alert.body))
    out.add("alerts.wire", b"".join(encode(packet) for packet in build_packets(inputs)))


def pipeline(out: Fingerprints) -> None:
    """Three visits of `DiaPipelineTask` against PostgreSQL: what is returned and what is stored."""
    from apdb import Database
    from association import DiaPipelineTask

    server = moved("EmbeddedPostgres", "apdb.operate.embedded", "apdb.embedded")
    migrate = moved("migrate", "migrations.run", "service.migrate")
    all_rows = moved("all_rows", "apdb.operate.export", "apdb.export")
    latest = moved("latest_objects", "apdb.operate.export", "apdb.export")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with server(Path(folder) / "postgres") as running:
            migrate(running.uri)
            database = Database(running.uri)
            for visit, band in ((1, "g"), (2, "r"), (3, "g")):
                e = visit_image(visit, band)
                task = make_task(DiaPipelineTask, {"apdb_config_url": running.uri})
                result = task.run(detections(e), e, e, e, 50, processedMjdTai=MJD + 50 + visit)
                for name in ("associatedDiaSources", "diaForcedSources", "updatedDiaObjects"):
                    out.add(f"pipeline.{visit}.{name}", getattr(result, name))
                out.add(f"pipeline.{visit}.metadata", metadata_numbers(task.metadata))
            out.add("apdb.DiaSource", all_rows(database, "DiaSource"))
            out.add("apdb.DiaForcedSource", all_rows(database, "DiaForcedSource"))
            out.add("apdb.DiaObject", latest(database))
