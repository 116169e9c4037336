"""The configuration of `ImageDifferenceTask`: the table of `diffim.options` as fields."""

from typing import Any

import lsst.pex.config as pexConfig

from diffim.options import OPTIONS, Option, contradictions
from tasks import AlertTaskConfig
from tasks.base import AlertTaskConnections

__all__ = ["ImageDifferenceConfig"]


def _field(option: Option) -> Any:
    kind = type(option.default)
    if kind is tuple:
        return pexConfig.ListField(dtype=str, default=list(option.default), doc=option.doc)
    if option.allowed:
        return pexConfig.ChoiceField(
            dtype=str, default=option.default, allowed=dict(option.allowed), doc=option.doc, optional=False
        )
    if option.least is None and option.most is None:
        return pexConfig.Field(dtype=kind, default=option.default, doc=option.doc)
    return pexConfig.RangeField(
        dtype=kind, default=option.default, doc=option.doc, min=option.least, max=option.most, inclusiveMax=True
    )


class ImageDifferenceConfig(AlertTaskConfig, pipelineConnections=AlertTaskConnections):  # type: ignore[call-arg]
    """Configuration; see `diffim.options.OPTIONS`."""

    vars().update({_name: _field(_option) for _name, _option in OPTIONS.items()})

    def validate(self) -> None:
        """Refuse contradictions."""
        super().validate()
        for text in contradictions(self):
            raise ValueError(text)
