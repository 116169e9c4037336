"""Parameters that several reads of the API take, with what the document says of them."""

from typing import Annotated, Any, Literal

from fastapi import Path
from fastapi import Query as Parameter

from apdb import queries

__all__ = [
    "ROWS_AT_MOST",
    "After",
    "Bands",
    "Columns",
    "Detector",
    "Format",
    "Limit",
    "Mjd",
    "Night",
    "ObjectId",
    "Radius",
    "Right",
    "Up",
    "Visit",
    "Withdrawn",
]

Format = Annotated[
    Literal["json", "csv", "parquet", "votable"] | None,
    Parameter(alias="format", description="else by Accept; json by default"),
]
Columns = Annotated[str | None, Parameter(description="names, separated by commas; all by default")]
Mjd = Annotated[float | None, Parameter(description="MJD, TAI", allow_inf_nan=False)]
ROWS_AT_MOST: dict[str, Any] = {"minimum": 1, "maximum": queries.MAX_ROWS}  # said, and checked by the query
Limit = Annotated[int, Parameter(description="rows at most", json_schema_extra=ROWS_AT_MOST)]
ObjectId = Annotated[int, Path(description="diaObjectId", json_schema_extra={"minimum": 0, "maximum": (1 << 63) - 1})]
Visit = Annotated[int, Path(description="visit number", json_schema_extra={"minimum": 0, "maximum": (1 << 63) - 1})]
Detector = Annotated[
    int, Path(description="detector number", json_schema_extra={"minimum": 0, "maximum": (1 << 15) - 1})
]
Right = Annotated[
    float,
    Parameter(
        description="right ascension of the centre, ICRS degrees", json_schema_extra={"minimum": 0, "maximum": 360}
    ),
]
Up = Annotated[
    float,
    Parameter(description="declination of the centre, ICRS degrees", json_schema_extra={"minimum": -90, "maximum": 90}),
]
After = Annotated[int | None, Parameter(description="`next` of the page before: rows behind this id")]
Bands = Annotated[list[str] | None, Parameter(description="of these bands only (repeat); all by default")]
Withdrawn = Annotated[
    bool,
    Parameter(
        description="also rows that were taken back: their visit was replaced or withdrawn (timeWithdrawnMjdTai is set)"
    ),
]
Night = Annotated[int | None, Parameter(description="of this night only: integer part of MJD - 0.5")]
Radius = Annotated[
    float,
    Parameter(
        description="of the circle, arcsec", json_schema_extra={"minimum": 0, "maximum": 3600 * queries.MAX_RADIUS_DEG}
    ),
]
