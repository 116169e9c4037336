"""A data service of the TOM Toolkit (3 or newer): objects of the service become targets with their light curves.

In the settings of a TOM, with this file on its path::

    DATA_SERVICES = {"alertprod": {"url": "http://HOST:8080", "token": "..."}}  # a token with the scope `read`

and in an app's ``apps.py``::

    def data_services(self):
        return [{"class": "tom_data_service.AlertprodDataService"}]

Where the TOM Toolkit is not installed, `main` shows what it would store: ``python examples/tom_data_service.py URL RA DEC ARCSEC``.
"""

import json
import sys
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from math import log, log10
from typing import Any

try:
    from tom_dataservices.dataservices import DataService
except ImportError:
    DataService = object

TAI_MINUS_UTC_S = 37.0  # since 2017
AB_OF_1_NJY = 31.4  # magnitude: -2.5 log10(1e-9 Jy / 3631 Jy)


class Catalogue:
    """Reads of the HTTP API."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url, self._token = url.rstrip("/"), token

    def rows(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Return the rows of an answer."""
        given = urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = urllib.request.Request(f"{self._url}{path}?{given}", headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310
            return list(json.load(reply)["rows"])

    def cone(self, ra: float, dec: float, radius_arcsec: float) -> list[dict[str, Any]]:
        """Return the objects around a place."""
        return self.rows("/v1/objects", ra=ra, dec=dec, radius=radius_arcsec)

    def photometry(self, object_id: int) -> list[dict[str, Any]]:
        """Return the light curve as the TOM Toolkit stores it: time in UTC, filter, magnitude or 5 sigma limit."""
        out = []
        for row in self.rows(f"/v1/objects/{object_id}/lightcurve"):
            flux, error = row["psfFlux"], row["psfFluxErr"]
            if flux is None or error is None or error <= 0:
                continue
            utc = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=row["midpointMjdTai"], seconds=-TAI_MINUS_UTC_S)
            point: dict[str, Any] = {"timestamp": utc, "bandpass": row["band"], "unit": "AB mag"}
            if flux > 5 * error:
                point |= {
                    "brightness": AB_OF_1_NJY - 2.5 * log10(flux),
                    "brightness_error": 2.5 / log(10) * error / flux,
                }
            else:
                point["limit"] = AB_OF_1_NJY - 2.5 * log10(5 * error)
            out.append(point)
        return out


class AlertprodDataService(DataService):  # type: ignore[misc, valid-type]
    """Cone search by a TOM's users; results become targets, their light curves reduced data."""

    name = "alertprod"
    verbose_name = "alertprod"

    @classmethod
    def get_form_class(cls) -> Any:
        """Return the form of the query: a place and a radius."""
        from django import forms
        from tom_dataservices.forms import BaseQueryForm

        class ConeForm(BaseQueryForm):  # type: ignore[misc]
            ra = forms.FloatField(label="RA (deg, ICRS)")
            dec = forms.FloatField(label="Dec (deg, ICRS)")
            radius = forms.FloatField(label="Radius (arcsec)", initial=5.0)

        return ConeForm

    def catalogue(self) -> Catalogue:
        """Return the service that the settings name."""
        return Catalogue(self.get_configuration("url"), self.get_configuration("token", ""))

    def build_query_parameters(self, parameters: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Take what the form holds."""
        self.query_parameters = {k: parameters[k] for k in ("ra", "dec", "radius") if k in parameters}
        return self.query_parameters

    def query_service(self, data: dict[str, Any], **kwargs: Any) -> list[dict[str, Any]]:
        """Ask the service."""
        self.query_results = self.catalogue().cone(data["ra"], data["dec"], data["radius"])
        return self.query_results

    def query_targets(self, query_parameters: dict[str, Any], **kwargs: Any) -> list[dict[str, Any]]:
        """Return the objects with the name that a target has."""
        rows = self.query_service(query_parameters)
        return [{"name": str(r["diaObjectId"]), **r} for r in rows]

    def create_target_from_query(self, target_result: dict[str, Any], **kwargs: Any) -> Any:
        """Return a target; the TOM stores it."""
        from tom_targets.models import Target

        place = {"ra": target_result["ra"], "dec": target_result["dec"]}
        return Target(name=str(target_result["diaObjectId"]), type="SIDEREAL", **place)

    def build_query_parameters_from_target(self, target: Any, **kwargs: Any) -> dict[str, Any]:
        """Return which object a target is: that of its name."""
        return {"object": int(target.name)}

    def query_photometry(self, query_parameters: dict[str, Any], **kwargs: Any) -> list[dict[str, Any]]:
        """Return the light curve of an object; a query by place has none of its own."""
        return self.catalogue().photometry(query_parameters["object"]) if "object" in query_parameters else []

    def create_reduced_datums_from_query(
        self, target: Any, data: list[dict[str, Any]], data_type: str | None = None, **kwargs: Any
    ) -> list[Any]:
        """Store the light curve of a target."""
        from tom_dataproducts.models import PhotometryReducedDatum

        kept = PhotometryReducedDatum.objects
        return [
            kept.get_or_create(
                target=target, source_name=self.name, timestamp=p["timestamp"], bandpass=p["bandpass"], defaults=p
            )[0]
            for p in data
        ]


def main(url: str, ra: float, dec: float, radius: float) -> None:
    """Print the targets at a place, and their light curves."""
    catalogue = Catalogue(url)
    for row in catalogue.cone(ra, dec, radius):
        print(row["diaObjectId"], f"{row['ra']:.6f} {row['dec']:+.6f}")
        for point in catalogue.photometry(row["diaObjectId"]):
            print("   ", json.dumps({**point, "timestamp": point["timestamp"].isoformat(timespec="seconds")}))


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:5]))
