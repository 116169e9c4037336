"""From the datasets of a quantum to the arguments of `UpdateVisitSummaryTask.run`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from calibration.errors import SummaryError
from calibration.summary.providers import GlobalInput, HealpixInput, PossiblyMultipleInput, TractInput

__all__ = ["gather_inputs"]


def gather_inputs(inputs: dict[str, Any], task: Any) -> dict[str, Any]:
    """Return the arguments of ``run``; handles become mappings by detector, tracts and pixels get their places.

    Raises
    ------
    SummaryError
        Backgrounds are to be replaced, and a detector lacks an original or a replacement.
    """
    inputs = dict(inputs)
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
        provider = _provider(kind, inputs)
        if provider is not None:
            inputs[f"{kind}_overrides"] = provider
    return inputs


def _provider(kind: str, inputs: dict[str, Any]) -> PossiblyMultipleInput | None:
    if (one := inputs.pop(f"{kind}_overrides_global", None)) is not None:
        return GlobalInput(one)
    if (tracts := inputs.pop(f"{kind}_overrides_tract", None)) is not None:
        catalogs = {int(h.dataId["tract"]): h.get() for h in tracts}
        return TractInput(catalogs, {int(h.dataId["tract"]): _centre(h.dataId) for h in tracts})
    if (pixels := inputs.pop(f"{kind}_overrides_healpix", None)) is not None:
        order = next((int(k[len("healpix") :]) for h in pixels for k in _keys(h.dataId) if k.startswith("healpix")), 3)
        return HealpixInput({int(h.dataId[f"healpix{order}"]): h.get() for h in pixels}, order)
    return None


def _keys(data_id: Any) -> list[str]:
    return [str(k) for k in (data_id if isinstance(data_id, Mapping) else data_id.mapping)]


def _centre(data_id: Any) -> Any:
    point = data_id.records["tract"].region.getCentroid() if hasattr(data_id, "records") else None
    return np.array([1.0, 0.0, 0.0]) if point is None else np.array([point.x(), point.y(), point.z()])
