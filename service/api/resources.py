"""What the handlers of the HTTP API work with: settings, database, ledger, the answers to reads, names of schemas."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from apdb import Database, Ledger
from apdb.pooled import PooledDatabase
from service.api.answers import STREAM_TIMEOUT_S, Answers
from service.api.guard.admission import Admission
from service.api.states import States
from service.api.stream.feed import Feed
from service.api.uploads import UploadSlots
from service.intake.headers import HeaderReader
from service.observe.watch import Reach
from service.settings import Settings

__all__ = ["Resources", "Shared", "open_resources", "resources_of", "set_resources"]

STATEMENT_TIMEOUT_S = 10
MAX_UPLOADS = 8


@dataclass(frozen=True)
class Resources:
    """One per application; handlers run in several threads and share it.

    Parameters
    ----------
    settings
        Settings of the service.
    database
        Connections whose statements are short, and which are kept.
    ledger
        Visits.
    states
        States of single visits, read beside everything else.
    answers
        Streamed answers, from read-only connections of their own.
    subjects
        Names under which the schema registry has the alert schemas.
    headers
        Reads headers of images in processes of their own.
    uploads
        Slots of images that come in.
    feed
        Changes of state of visits, for all who follow them.
    admission
        Places and threads of those who submit.
    broker
        Whether a broker can be reached.
    """

    settings: Settings
    database: PooledDatabase
    ledger: Ledger
    states: States
    answers: Answers
    subjects: tuple[str, ...]
    headers: HeaderReader
    uploads: UploadSlots
    feed: Feed
    admission: Admission
    broker: Reach

    def close(self) -> None:
        """Close the connections of the database."""
        self.database.close()
        self.states.close()


def open_resources(settings: Settings) -> Resources:
    """Return the resources of an application; the database is not asked yet.

    Raises
    ------
    SettingsError
        No database is named.
    """
    database = PooledDatabase(settings.database(), statement_timeout_s=STATEMENT_TIMEOUT_S)
    answers = Answers(Database(settings.database(), STREAM_TIMEOUT_S, read_only=True))
    subjects = (settings.schema_subject, f"{settings.alert_topic}-value")
    headers, uploads = HeaderReader(settings), UploadSlots(MAX_UPLOADS)
    feed, admission = Feed(database, settings.max_viewers), Admission(settings.max_submits)
    broker = Reach(settings.kafka_brokers)
    states = States(settings.database(), STATEMENT_TIMEOUT_S)
    return Resources(
        settings, database, Ledger(database), states, answers, subjects, headers, uploads, feed, admission, broker
    )


def set_resources(app: FastAPI, resources: Resources) -> None:
    """Give an application what its handlers work with."""
    app.state.resources = resources


async def resources_of(request: Request) -> Resources:
    """Return what the application that answers a request works with."""
    resources: Resources = request.app.state.resources
    return resources


Shared = Annotated[Resources, Depends(resources_of)]
