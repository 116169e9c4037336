"""From the datasets of a quantum to the arguments of `UpdateVisitSummaryTask.run`."""

from typing import Any

import numpy as np

from calibration.errors import SummaryError
from calibration.summary.config import healpix_order
from calibration.summary.providers import GlobalInput, HealpixInput, PossiblyMultipleInput, TractInput
from tasks.arrays import F64

__all__ = ["gather_inputs"]


def gather_inputs(inputs: dict[str, Any], task: Any) -> dict[str, Any]:
    """Return the arguments of ``run``; handles become mappings by detector, tracts and pixels get their places.

    Raises
    ------
    SummaryError
        Backgrounds are to be replaced, and a detector lacks an original or a replacement.
    """
    inputs = {name: value for name, value in inputs.items() if name != "input_summary_schema"}
    if (camera := inputs.pop("camera", None)) is not None:
        task.camera = camera
    by_detector = {"input_exposures", "background_originals", "background_overrides"}
    for name in by_detector & set(inputs):
        inputs[name] = {int(h.dataId["detector"]): h for h in inputs[name]}
    if task.config.background_provider == "replacement":
        wanted = {int(i) for i in inputs["input_summary_catalog"].table["id"]}
        for name in ("background_originals", "background_overrides"):
            lost = sorted(wanted - set(inputs.get(name, {})))
            if lost:
                raise SummaryError(
                    f"background_provider is 'replacement' but {name} lacks detectors {lost[:10]}", detector=lost[0]
                )
    for kind in ("wcs", "photo_calib"):
        provider = _provider(kind, inputs, task.config.wcs_provider)
        if provider is not None:
            inputs[f"{kind}_overrides"] = provider
    return inputs


def _provider(kind: str, inputs: dict[str, Any], wcs_provider: str) -> PossiblyMultipleInput | None:
    if (one := inputs.pop(f"{kind}_overrides_global", None)) is not None:
        return GlobalInput(one)
    if (tracts := inputs.pop(f"{kind}_overrides_tract", None)) is not None:
        catalogs = {int(h.dataId["tract"]): h.get() for h in tracts}
        return TractInput(catalogs, {int(h.dataId["tract"]): _centre(h.dataId, len(tracts)) for h in tracts})
    if (pixels := inputs.pop(f"{kind}_overrides_healpix", None)) is not None:
        order = healpix_order(wcs_provider)
        return HealpixInput({int(h.dataId[f"healpix{order}"]): h.get() for h in pixels}, order)
    return None


def _centre(data_id: Any, number: int) -> F64:
    """Return the unit vector (3,) of a tract's centre; of a single tract, which is always the nearest, it need not be known."""
    records = data_id.records if hasattr(data_id, "records") else {}
    if "tract" in records:
        region = records["tract"].region
        # of a region that is no polygon, the middle of the circle around it
        point = region.getCentroid() if hasattr(region, "getCentroid") else region.getBoundingCircle().getCenter()
        return np.array([point.x(), point.y(), point.z()])
    if number > 1:
        raise SummaryError(
            f"the data id of tract {data_id['tract']} has no dimension records: which of {number} tracts is nearest to a "
            "detector cannot be told; expand the data ids (registry.expandDataId)"
        )
    return np.array([1.0, 0.0, 0.0])
