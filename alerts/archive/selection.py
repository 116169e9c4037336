"""Alerts of the archive by visit, time, object or trigger, found through the database, read one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from alerts.archive.store import AlertArchive, AlertFile
from alerts.packets.wire import Alert
from apdb import Database
from apdb.queue import outbox
from apdb.queue.outbox import OutboxRow, RowSelection

__all__ = ["AlertSelection", "alert_file"]


def alert_file(row: OutboxRow) -> AlertFile:
    """Return the alert file of an outbox row."""
    return AlertFile(row.file, row.count, row.checksum, bytes(row.index or b""))


@dataclass(frozen=True)
class AlertSelection(RowSelection):
    """Which alerts; conditions left out do not restrict (see `apdb.queue.outbox.RowSelection`)."""

    @property
    def everything(self) -> bool:
        """Whether nothing restricts."""
        return self == AlertSelection()

    def rows(self, database: Database) -> list[OutboxRow]:
        """Return the outbox rows that hold such alerts, in order of time.

        Raises
        ------
        DatabaseUnavailable
            Try again later.
        """
        with database.session() as connection:
            return outbox.rows_of_visits(connection, self)

    def read(self, archive: AlertArchive, row: OutboxRow) -> Iterator[Alert]:
        """Yield the alerts of a row that fit; others are not read.

        Raises
        ------
        AlertError
            The file is missing, or is not what was written.
        """
        file = alert_file(row)
        if not file.index or (self.object_id is None and self.source_id is None):
            yield from filter(self._fits, archive.stream(file))
            return
        index = file.rows()
        keep = np.ones(len(index), np.bool_)
        for name, wanted in (("key", self.object_id), ("diaSourceId", self.source_id)):
            if wanted is not None:
                keep &= index[name] == wanted
        for k in np.flatnonzero(keep).tolist():
            yield from archive.stream(file, k, k + 1)

    def _fits(self, alert: Alert) -> bool:
        return self.object_id in (None, alert.key) and self.source_id in (None, alert.diaSourceId)
