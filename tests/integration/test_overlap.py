"""Eight workers store overlapping detectors of the same new stars at once: one object for each star, in every round.

``ALERTPROD_OVERLAP_ROUNDS=500`` is the whole of it (`make overlap-test`).
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from astropy.wcs import WCS

from apdb import VisitUnitOfWork, columns_of
from apdb.operate.export import all_rows, latest_objects
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels, sky_locks
from association import DiaPipelineTask
from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from exposure.psf import GaussianPsf
from tasks import IdGenerator, IdPacker, make_task

ROUNDS = int(os.environ.get("ALERTPROD_OVERLAP_ROUNDS", "12"))
WORKERS, STARS, SIZE = 8, 30, 240
ARCSEC = 1 / 3600
PACKER = IdPacker(1 << 20, 64)
FLUX, ERROR = 5000.0, 100.0


def detector_image(round_number, worker, ra0, dec0):
    """An image whose field is shifted by up to a third of its side; every star of the round is on it."""
    rng = np.random.default_rng([round_number, worker])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra0, dec0]
    wcs.wcs.crpix = (SIZE / 2 + rng.uniform(-40, 40, 2)).tolist()
    wcs.wcs.cd = np.array([[-0.2, 0.0], [0.0, 0.2]]) * ARCSEC
    wcs.wcs.set()
    pixels = np.zeros((SIZE, SIZE), np.float32)
    info = VisitInfo(round_number + 1, worker, 61000.0 + round_number + worker * 1e-4, 30.0, "test")
    return Exposure(pixels, pixels + 1, pixels.astype(np.int32), (0, 0), SkyWcs(wcs), GaussianPsf(1.5, 15), PhotoCalib(1.0),
                    info, "r")  # fmt: skip


def sources_of(image, ra, dec, rng):
    """DiaSource rows of the stars, a tenth of an arcsecond off."""
    visit, detector = image.key
    n = len(ra)
    values = {}
    for c in columns_of("DiaSource"):
        empty = {"f": np.nan if c.nullable else 0.0, "b": False, "O": "r"}.get(c.dtype.kind, 0)
        values[c.name] = np.full(n, empty).astype(c.dtype)
    out = pd.DataFrame(values)
    return out.assign(
        diaSourceId=PACKER.ids(visit, detector, n),
        visit=np.int64(visit),
        detector=np.int16(detector),
        ra=ra + rng.normal(0, 0.1 * ARCSEC, n),
        dec=dec + rng.normal(0, 0.1 * ARCSEC, n),
        raErr=0.1 * ARCSEC,
        decErr=0.1 * ARCSEC,
        ra_dec_Cov=0.0,
        psfFlux=FLUX,
        psfFluxErr=ERROR,
        apFlux=FLUX,
        apFluxErr=ERROR,
        scienceFlux=FLUX,
        scienceFluxErr=ERROR,
        snr=FLUX / ERROR,
        midpointMjdTai=image.visit_info.midpoint_mjd_tai,
        bboxSize=20,
    )


def store(database, image, sources, start):
    """What a worker does: locks, snapshot, association, commit."""
    task = make_task(DiaPipelineTask, {"doRunForcedMeasurement": False})
    start.wait()
    with database.connect() as connection, sky_locks(connection, lock_pixels(polygon(*image.sky_corners(30)))):
        with VisitUnitOfWork(connection) as work:
            task.run(sources, image, image, image, unitOfWork=work, idGenerator=IdGenerator(PACKER, *image.key))
            work.commit()


def test_workers_on_overlapping_detectors_never_make_two_objects_for_a_star(database):
    database.ensure_partitions(61000.0)
    with ThreadPoolExecutor(WORKERS) as pool:
        for number in range(ROUNDS):
            rng = np.random.default_rng([7, number])
            ra0, dec0 = (20.0 + 0.5 * number) % 360, -60.0 + 120.0 * ((number * 37) % 100) / 100
            offsets = 4.0 * (np.stack(np.meshgrid(np.arange(6), np.arange(5)), -1).reshape(-1, 2) - [2.5, 2.0])
            offsets += rng.uniform(-0.5, 0.5, offsets.shape)  # arcsec: no two stars within an association radius
            ra = ra0 + offsets[:, 0] * ARCSEC / np.cos(np.radians(dec0))
            dec = dec0 + offsets[:, 1] * ARCSEC
            start = threading.Barrier(WORKERS)
            jobs = []
            for worker in range(WORKERS):
                image = detector_image(number, worker, ra0, dec0)
                jobs.append(pool.submit(store, database, image, sources_of(image, ra, dec, rng), start))
            for job in jobs:
                job.result(timeout=120)
    sources, newest = all_rows(database, "DiaSource"), latest_objects(database)
    assert len(sources) == ROUNDS * WORKERS * STARS
    assert len(newest) == ROUNDS * STARS
    assert (newest.nDiaSources == WORKERS).all()
    counts = sources.groupby("diaObjectId").size()
    assert len(counts) == ROUNDS * STARS
    assert (counts == WORKERS).all()
