"""The limits of the reference: numbers that no setting changes, with the values that the code has."""

import importlib
import inspect
from collections.abc import Iterator

from tools.markdown import cell, code, table

__all__ = ["LIMITS", "limits_page"]

# what it is; MODULE:NAME, of several MODULE:NAME:PLACE, of a function MODULE:NAME:PARAMETER; unit; what follows
Row = tuple[str, str, str, str]
# by subject
LIMITS: dict[str, tuple[Row, ...]] = {
    "Sending visits": (
        ("visits of one `POST /v1/visits/batch`", "service.api.visits:MOST", "", "422 (bad_message)"),
        ("messages that `alertprod visits submit` sends at a time", "service.commands.visits:MOST", "", "the next request has the key `KEY.1`, then `KEY.2`"),
        ("body of a request without an image", "service.api.guard.shield:MAX_JSON", "MiB", "413 (too_large)"),
        ("bodies without images in the memory of an API process", "service.api.guard.shield:MOST_HELD", "MiB", "503 with Retry-After"),
        ("uploads that come in at a time, for each API process", "service.api.resources:MAX_UPLOADS", "", "503 with Retry-After (busy)"),
        ("an upload that no visit names is deleted after", "service.api.uploads:YOUNG_S", "s", "looked for every hour"),
        ("requests that submit and wait for one of the `ALERTPROD_MAX_SUBMITS` places", "service.api.guard.admission:MOST_WAITING", "", "503 with Retry-After"),
        ("how long they wait for a place", "service.api.guard.admission:WAIT_S", "s", "503 with Retry-After"),
        ("threads of an API process that enter visits", "service.api.guard.admission:THREADS", "", ""),
        ("longest `?wait=` for the end of a visit", "service.api.stream.waiting:LONGEST_S", "s", "422; after it the state as it is"),
        ("an `Idempotency-Key` and its answer are kept for", "apdb.queue.keys:KEEP_DAYS", "days", "then the key is new"),
        ("least pace of a body, beyond `ALERTPROD_BODY_TIMEOUT_S`", "service.api.guard.shield:SLOWEST", "bytes/s", "408 (request_timeout)"),
        ("how long the command line waits for an API (`ALERTPROD_API_URL`)", "service.access.client:TIMEOUT_S", "s", ""),
    ),
    "The queue and workers": (
        ("longest pause between two attempts (it doubles from `ALERTPROD_RETRY_S`)", "apdb.queue.claims:LONGEST_PAUSE_S", "s", ""),
        ("a visit that is `sky_busy` or `waiting` is looked at again after", "service.workers.outcomes:_SOON_S", "s", "no failure is counted"),
        ("how long a visit waits for a patch of sky that another holds", "apdb.sky.locks:sky_locks:timeout_s", "s", "sky_busy"),
        ("after which a visit that hangs in the line for a patch is passed", "apdb.sky.locks:LINE_PATIENCE_S", "s", ""),
        ("job processes in a row that die before their first answer", "service.workers.supervisor:START_ATTEMPTS", "", "the worker ends with status 1 (job_crashed)"),
        ("how long a job process may take to start", "service.subprocesses.answering:START_S", "s", "it is ended, and counts as one that died"),
        ("how often workers look for late images", "service.workers.supervisor:LOOK_S", "s", ""),
        ("how long a worker asks the database to take a failure", "service.workers.supervisor:RECORD_S", "s", "then the lease runs out"),
        ("release slots of a visit: the first processing and one less replacements", "apdb.queue.entries:RELEASES", "", "releases_exhausted"),
        ("announcements of next visits that workers look at, the newest", "apdb.announcements:MOST", "", ""),
        ("how long a worker prepares one announcement", "service.workers.announced:PREPARE_S", "s", "the job process is ended"),
        ("how long a role waits at its start for a database that does not answer", "service.ready:WAIT_S", "s", "it ends with status 1"),
        ("how long one statement about the ledger may take", "apdb.queue.ledger:LIMIT_S", "s", "the database counts as away"),
    ),
    "Visit messages of Kafka": (
        ("pause between two tries at a message that may pass", "service.intake.ingest:PAUSE_S", "s", ""),
        ("tries at a message that fails while the database answers", "service.intake.ingest:MOST_TRIES", "", "it is a dead letter"),
        ("characters of the reason that a dead letter keeps", "service.intake.dead_letters:MOST_TEXT", "", "cut"),
        ("a value that its topic does not take is cut there to", "service.intake.dead_letters:CUT_TO", "bytes", "header `cut_from_bytes`; the table has all of it"),
        ("characters of a value that `alertprod dead-letters show` prints", "service.commands.dead_letters:_LONGEST", "", "`--json` shows all"),
        ("children that read headers at a time", "service.intake.headers:CHILDREN", "", "others wait up to 15 s"),
        ("processor time to open a file: this, and 1 s for every 4 MB of the disk", "service.subprocesses.limits:CPU_BASE_S", "s", "fits_unreadable"),
    ),
    "Events (server-sent)": (
        ("a stream ends after", "service.api.stream.events:LONGEST_S", "s", "the client takes it up with Last-Event-ID"),
        ("a comment keeps it alive every", "service.api.stream.events:ALIVE_S", "s", ""),
        ("events that are given again after a break", "service.api.stream.events:MISSED", "", "`missed` is sent: read the list of visits"),
        ("events that a reader may be behind", "service.api.stream.feed:QUEUED", "", "its stream ends"),
        ("how long events are kept", "apdb.queue.events:KEEP_DAYS", "days", ""),
        ("how often an API process looks for changes, while anybody follows", "service.api.stream.feed:EVERY_S", "s", ""),
    ),
    "Reading over HTTP": (
        ("rows of one answer, at most (`limit`)", "apdb.queries:MAX_ROWS", "", "422 (bad_query)"),
        ("largest radius of a cone", "apdb.queries:MAX_RADIUS_DEG", "degrees", "422 (bad_query)"),
        ("answers with rows that an API process gives at a time", "service.api.answers:MAX_STREAMS", "", "one more waits 2 s, then 503 (busy)"),
        ("how long a statement of such an answer may take", "service.api.answers:STREAM_TIMEOUT_S", "s", "it is ended"),
        ("how long other statements of the API may take", "service.api.resources:STATEMENT_TIMEOUT_S", "s", "503 (database_unavailable)"),
        ("seconds that `Retry-After` says where nothing else is known", "service.api.problems:RETRY_AFTER_S", "s", ""),
        ("VISIT/DETECTOR that one DataLink request may name", "service.api.vo.stored_images:MOST_IDS", "", ""),
        ("pixels of a SODA cutout", "service.processing.looking.viewer_process:MOST_PIXELS", "", ""),
        ("finest order of a MOC of the footprint (6.9 arcmin)", "apdb.sky.moc:MOC_ORDER", "", ""),
    ),
    "ADQL and TAP": (
        ("rows where `MAXREC` is not given; `TOP` and `MAXREC` may ask for up to the rows of one answer", "service.api.vo.tap:DEFAULT_ROWS", "", ""),
        ("characters of a query", "apdb.adql.words:MAX_TEXT", "", "refused"),
        ("brackets within each other", "apdb.adql.words:MAX_DEPTH", "", "refused"),
        ("time of an asynchronous query", "service.api.vo.uws:STATEMENT_S", "s", "phase ERROR"),
        ("size of an asynchronous answer", "service.api.vo.uws:MOST_BYTES", "MiB", "phase ERROR: ask `/v1/tap/sync`, which streams"),
        ("asynchronous queries that run at a time in an API process", "service.api.vo.uws:QUERY_THREADS", "", "others are QUEUED"),
        ("unfinished asynchronous queries of one person", "apdb.tap_jobs:MOST_ACTIVE", "", "503 (busy)"),
        ("queries and answers are kept for", "apdb.tap_jobs:KEPT_DAYS", "days", "then they are deleted"),
        ("longest `WAIT` for another phase", "service.api.vo.uws:LONGEST_WAIT_S", "s", ""),
    ),
    "Tokens and sessions": (
        ("longest life of a token (`--days`; 90 where it is not given)", "service.access.tokens:MOST_DAYS", "days", "refused"),
        ("a revoked token may still be taken for", "service.access.tokens:KEPT_S", "s", ""),
        ("the last use of a token is written every", "apdb.access.tokens:USED_EVERY_S", "s", ""),
        ("tokens that are not good, from one address, in a minute", "service.api.guard.gate:FAILURES_PER_MINUTE", "", "429"),
        ("longest session of a browser (an hour without use ends it, too)", "service.access.sessions:LONGEST_S", "s", "sign in again"),
        ("leeway of the times in a token of an issuer", "service.access.oidc:LEEWAY_S", "s", ""),
        ("keys of an issuer are kept for", "service.access.oidc:KEPT_S", "s", "and fetched again for a new key every 30 s at most"),
        ("how long an issuer may take to answer", "service.access.oidc:TIMEOUT_S", "s", "503 (issuer_unavailable)"),
    ),
    "Alerts and Kafka": (
        ("smallest side of a cutout", "alerts.packets.cutouts:MIN_SIDE", "px", ""),
        ("largest side of a cutout", "alerts.packets.cutouts:MAX_SIDE", "px", ""),
        ("days of history in a packet, and in the means of an object", "tasks.object_statistics:HISTORY_DAYS", "days", ""),
        ("largest message of topics that the relay makes", "alerts.delivery.target:MAX_MESSAGE", "MiB", "a larger packet is trimmed"),
        ("schema id in the header of an alert (11.1)", "alertprod_client.schemas:SCHEMA_ID", "id", ""),
        ("schema id in the header of a correction", "alerts.packets.corrections:CORRECTION_ID", "id", ""),
        ("distance within which a new source stands in the place of an old one (`replaced`)", "apdb.visit.corrected:SAME_PLACE_ARCSEC", "arcsec", "beyond it `retracted`"),
        ("alerts of one Kafka transaction", "alerts.delivery.relay:BATCH_ALERTS", "", ""),
        ("bytes of one Kafka transaction", "alerts.delivery.relay:BATCH_BYTES", "MiB", ""),
        ("bytes of the first transaction of a visit", "alerts.delivery.relay:FIRST_BATCH_BYTES", "MiB", ""),
        ("orphaned alert files are swept when they are older than", "service.delivery:SWEEP_OLDER_S", "s", ""),
        ("how long the brokers may take to answer a command (`alerts tail`, `lag`)", "service.commands.alerts:REACH_S", "s", "broker_unavailable"),
        ("how long they may take to answer the client", "alertprod_client.consumer:REQUEST_TIMEOUT_S", "s", "BrokerUnavailable"),
        ("points of the light curve that an alert shows in a notebook", "alertprod_client.preview:MOST_POINTS", "", ""),
    ),
    "The database": (
        ("version of the published schema", "apdb.schema.columns:SCHEMA_VERSION", "", ""),
        ("number of the newest migration", "apdb.schema.setup:DATABASE_VERSION", "", "another one: schema_version"),
        ("how long connecting may take", "apdb.database:CONNECT_TIMEOUT_S", "s", "database_unavailable"),
        ("how long a migration, or a new partition, waits for a table", "apdb.schema.partitions:LOCK_TIMEOUT_S", "s", "nothing is changed"),
        ("times a transaction is run that the database ends for a deadlock", "apdb.transactions:ATTEMPTS", "", "database_unavailable"),
        ("months without a partition that one store makes partitions for", "apdb.schema.partitions:MAX_NEW_MONTHS", "", "of more none is made: the rows go to the default partition"),
        ("share of dead rows from which `vacuum-advice` speaks", "apdb.operate.health:DEAD_FRACTION", "", ""),
        ("dead rows below which it does not", "apdb.operate.health:DEAD_ROWS", "", ""),
        ("age of transaction ids from which it speaks", "apdb.operate.health:XID_AGE", "", ""),
        ("level of the HTM pixels in `pixelId`", "apdb.sky.htm:HTM_LEVEL", "", ""),
    ),
    "`alertprod doctor`": (
        ("oldest version of PostgreSQL", "service.doctor.database:LEAST_VERSION", "/10 000", "wrong"),
        ("difference of the clocks of database and machine that is a warning", "service.doctor.database:CLOCK_WARNING_S", "s", "warning"),
        ("difference that is wrong", "service.doctor.database:CLOCK_WRONG_S", "s", "wrong"),
        ("share of the connections of PostgreSQL in use", "service.doctor.database:BUSY", "", "warning"),
        ("free room of a folder's disk, below", "service.doctor.machine:ROOM_WARNING", "GiB", "warning"),
        ("free room of a folder's disk, below", "service.doctor.machine:ROOM_WRONG", "GiB", "wrong"),
        ("how long broker and registry may take to answer", "service.doctor.streams:LIMIT_S", "s", "wrong"),
    ),
    "Images and headers": (
        ("pixels of an image", "exposure.io.opening:MAX_PIXELS", "", "fits_unreadable"),
        ("axes of an image, columns of a table (NAXIS, ZNAXIS, TFIELDS)", "exposure.io.promises:MOST_AXES", "", "fits_unreadable"),
        ("extensions of a file", "exposure.io.promises:MOST_HDUS", "", "fits_unreadable"),
        ("length of a header", "exposure.io.promises:LONGEST_HEADER", "MiB", "fits_unreadable"),
        ("what a compressed file may hold behind its last extension", "exposure.io.promises:MOST_BEHIND", "MiB", "fits_unreadable"),
        ("variance from which a pixel has no data", "exposure.flagging.missing:BIG", "", "NO_DATA"),
        ("times the usual variance from which a pixel has no data", "exposure.flagging.missing:UNKNOWN", "", "NO_DATA"),
        ("earliest date of a header (MJD; 1890)", "exposure.header.times:EARLIEST_MJD", "", "bad_card"),
        ("days after now that a date of a header may lie", "exposure.header.times:AHEAD_DAYS", "days", "bad_card"),
        ("smallest gain that is taken from a GAIN or EGAIN card that the file does not name", "calibration.gain:SETTINGS:0", "e-/count", "gain_unknown"),
        ("largest such gain", "calibration.gain:SETTINGS:1", "e-/count", "gain_unknown"),
        ("stars that a PSF model needs", "calibration.psf.model:MIN_STARS", "", "too_few_stars"),
        ("FWHM below which an image is called undersampled", "calibration.psf.smoothing:UNDERSAMPLED_FWHM", "px", "warning"),
        ("FWHM from which radii in arcsec grow", "exposure.task_config:USUAL_FWHM_ARCSEC", "arcsec", ""),
        ("least FWHM that they are counted with", "exposure.task_config:LEAST_FWHM_PX", "px", ""),
        ("bits that the counter of an id must have left", "exposure.instrument:LEAST_COUNTER_BITS", "", "instrument"),
        ("frames of a detector from which `instrument bad-pixels` learns, at least", "calibration.defects.drift:LEAST_FRAMES", "", "too_little_drift"),
        ("places that a star must have on the detector for it", "calibration.defects.drift:LEAST_POSITIONS", "", "too_little_drift"),
        ("frames of a detector that it takes at most, evenly over the night", "service.frames.bad_pixels:MOST_FRAMES", "", ""),
    ),
    "Differences and detections": (
        ("largest shift that `--register` finds", "diffim.checks.elsewhere:REACH", "px", "mismatch, wrong_template"),
        ("distance of the stars up to which a pair with `--registered` is taken without a word", "service.pairs.checks:ON_GRID", "px", "a warning, or mismatch"),
        ("share of equal pixel steps from which two images are the same", "service.pairs.checks:SAME", "", "same_image"),
        ("share from which a warning says that noise is in common", "service.pairs.checks:PARTLY", "", "warning"),
        ("reliability below which `alertprod diff` counts sources apart, and draws them red", "service.pairs.source_columns:RELIABLE", "", ""),
        ("radius of the circles of a region file", "service.pairs.source_files:RADIUS", "px", ""),
        ("radius of `apFlux`", "exposure.photon_noise:AP_RADIUS", "px", ""),
        ("radius of the aperture of `alertprod.photometry`, where none is given, in FWHM", "alertprod.measuring:APERTURE_FWHM", "", ""),
        ("share of the PSF's light that must fall on pixels with data", "exposure.photometry:LEAST_COVERAGE", "", "no flux (`noGoodPixels`)"),
        ("share below which a flux lacks light", "exposure.photometry:LACKING", "", "`no_data`, `edge`"),
        ("share of a matched filter's weight that must fall on good pixels for a detection", "diffim.detection.significance:MIN_WEIGHT", "", "not detected"),
        ("satellite flashes in a line that make a glint trail", "diffim.detection.glints:MIN_POINTS", "", "`glint_trail`"),
        ("longest line that a trail is fitted with", "diffim.measurement.trails:LONGEST", "px", ""),
        ("motion from which a trail is taken out as too long", "association.standardize:MAX_TRAIL_ARCSEC_PER_S", "arcsec/s", "counted as `trailed`"),
        ("largest share of a dipole's flux in one lobe", "diffim.measurement.dipoles:MAX_SHARE", "", "no dipole"),
        ("sources of one footprint that `doDeblend` takes apart", "diffim.measurement.deblend:MOST", "", "NOT_DEBLENDED"),
        ("points of an object in all bands together that a multi-band period needs", "association.statistics.multiband:MIN_POINTS", "points", ""),
        ("points that a period of one band needs", "association.statistics.optional:MIN_PERIOD_POINTS", "points", ""),
    ),
    "The dashboard": (
        ("budget from the end of the exposure to the alert", "service.pages.nights.facts:BUDGET_S", "s", "longer bars are marked"),
        ("a gap of the night is longer than this, and", "service.pages.nights.facts:LEAST_GAP_S", "s", ""),
        ("so many times the usual pause between visits", "service.pages.nights.facts:LONG_GAP", "", ""),
        ("ccdVisits of a night that are looked at", "service.pages.nights.facts:MOST", "", ""),
        ("how often an API process looks for changes", "service.pages.live:EVERY_S", "s", ""),
        ("points of a light curve that a browser draws at once", "service.pages.objects.curve:MOST_DRAWN", "", "more are binned by the service"),
        ("points of a light curve", "service.pages.objects.curve:MOST", "", ""),
        ("points that periods are searched in", "service.pages.objects.curve:MOST_FOR_PERIODS", "", ""),
        ("neighbours of an object are shown within", "service.pages.objects.page:NEAR_ARCSEC", "arcsec", ""),
        ("ccdVisits of the trends, the newest", "service.pages.survey.trends:MOST", "", ""),
        ("robust sigma from the median beyond which a visit stands out", "service.pages.survey.trends:FAR", "", ""),
        ("days before the newest exposure whose detections the sky shows", "service.pages.survey.density:DAYS", "days", ""),
        ("bytes of a map or MOC that is compared with the footprint", "service.pages.survey.sky:MOST_BYTES", "MiB", "413"),
        ("share of the probability of a gravitational-wave map that is compared", "service.pages.survey.overlap:CREDIBLE", "", ""),
        ("newest ccdVisits whose detections are offered for scanning", "service.pages.scanning.page:VISITS", "", ""),
        ("pictures are reduced to a longer side of", "service.pages.visits.images:WHOLE", "px", "links lead to parts in full resolution"),
        ("how long a picture may take to be made", "service.pages.viewer:ANSWER_S", "s", ""),
        ("objects that are looked at for those with most detections", "service.pages.search:MOST_OBJECTS", "", "the page says so"),
        ("how long those are kept for all who ask", "service.pages.kept:COUNTED_S", "s", "counted anew"),
        ("sources of a visit that its page lists", "service.pages.visits.page:MOST_SOURCES", "", ""),
        ("restarts by `alertprod up` of a role that a signal ended", "service.local.up:MOST_RESTARTS", "", "it ends with status 1"),
    ),
}  # fmt: skip
_SCALES = {"MiB": 1 << 20, "GiB": 1 << 30, "/10 000": 10_000}


def limits_page() -> str:
    """Every limit by subject, with where it stands in the code."""
    parts = [
        "# Limits\n\nNumbers that no setting changes, as the code has them: timeouts, sizes, counts, durations of keeping. What [settings](settings.md), options of "
        "[commands](commands.md) and of [tasks](tasks.md) and parameters of the [HTTP API](http.md) change stands there. Names behind a limit are "
        "[error codes](../../errors/README.md).\n"
    ]
    for subject, rows in LIMITS.items():
        parts.append(f"## {subject}\n")
        parts.append(table(("limit", "value", "beyond it", "in the code"), _rows(rows)))
    return "\n".join(parts)


def _rows(rows: tuple[Row, ...]) -> Iterator[tuple[str, str, str, str]]:
    for words, where, unit, beyond in rows:
        module, name, *_ = where.split(":")
        yield words, _value(where, unit), cell(beyond), code(f"{module}.{name}")


def _value(where: str, unit: str) -> str:
    module, name, *part = where.split(":")
    value = getattr(importlib.import_module(module), name)
    if part:
        value = inspect.signature(value).parameters[part[0]].default if callable(value) else value[int(part[0])]
    if unit == "id" or isinstance(value, str):
        return str(value)
    number = value / _SCALES.get(unit, 1)
    shown = f"{number:.4g}" if number != int(number) or abs(number) >= 1e9 else f"{number:,.0f}".replace(",", " ")
    return f"{shown} {'' if unit.startswith('/') else unit}".strip()
