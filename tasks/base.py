"""`AlertTask`: ``lsst.pipe.base.PipelineTask`` with the parts of the older task surface that it lost.

One task object serves one visit: metadata of a reused task grows and mixes between threads, so `make_task` builds a
fresh one from a frozen copy of its config (0.4 ms).
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lsst.pex.config as pexConfig
import lsst.pipe.base as pipeBase
import numpy as np

from tasks.datasets import CCD
from tasks.errors import CallerError
from tasks.provenance import ProvenanceMismatch, replace_text, write_config, write_package_versions, write_together
from tasks.storage_classes import register_storage_classes

__all__ = ["AlertTask", "AlertTaskConfig", "AlertTaskConnections", "make_config", "make_task"]

register_storage_classes()


class TaskProvenanceMismatch(ProvenanceMismatch, pipeBase.TaskError):
    """A stored config, schema or version differs from that of this task; nothing was changed."""


@contextmanager
def _as_task_error() -> Iterator[None]:
    try:
        yield
    except ProvenanceMismatch as error:
        raise TaskProvenanceMismatch(error.message) from error


class AlertTaskConnections(pipeBase.PipelineTaskConnections, dimensions=CCD):  # type: ignore[call-arg]
    """Connections of a task that says none: it works on a detector of a visit."""


class AlertTaskConfig(pipeBase.PipelineTaskConfig, pipelineConnections=AlertTaskConnections):  # type: ignore[call-arg]
    """Base of the task configs."""


class AlertTask(pipeBase.PipelineTask):
    """A PipelineTask with the older public surface (schemas, stored configs, resource config)."""

    ConfigClass = AlertTaskConfig
    _DefaultName = "alertTask"
    canMultiprocess = True

    def put(self, key: str, value: Any) -> None:
        """Write one metadata value, cast to what the metadata class accepts (it refuses None and numpy scalars)."""
        if value is None:
            return
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, np.ndarray):
            value = value.tolist()
        self.metadata[key] = value

    @contextmanager
    def step(self, name: str, duration: str | None = None) -> Iterator[None]:
        """Time one named step into the metadata; `duration` is a further key for its seconds."""
        begin = time.perf_counter()
        with self.timer(name):
            yield
        if duration is not None:
            self.put(duration, time.perf_counter() - begin)

    def getResourceConfig(self) -> Any:
        """Return the resource configuration, None when the config has none."""
        return getattr(self.config, "resources", None)

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return empty catalogues by dataset name; tasks with schemas override this."""
        return {}

    def getAllSchemaCatalogs(self) -> dict[str, Any]:
        """Return the schema catalogues of this task and of all its subtasks."""
        out: dict[str, Any] = {}
        for reference in self.getTaskDict().values():
            task = reference()
            if task is not None and hasattr(task, "getSchemaCatalogs"):
                out.update(task.getSchemaCatalogs())
        return out

    @classmethod
    def applyOverrides(cls, config: Any) -> None:
        """Change config values after camera overrides and before those of the command line (a hook)."""

    @classmethod
    def parseAndRun(cls, args: Any = None, config: Any = None, log: Any = None, doReturnResults: bool = False) -> Any:
        """Run the task on data references of a file, as the older command line did; ``--help`` lists the options.

        The program ends with the number of references that failed, where any did, unless ``--noExit`` is given.

        Returns
        -------
        struct : `lsst.pipe.base.Struct`
            ``argumentParser``, ``parsedCmd``, ``taskRunner``, ``resultList``: a `Struct` for each reference, with exitStatus
            (0 or 1), dataRef, error where it failed, and result where `doReturnResults` says so.

        Raises
        ------
        CallerError
            The task knows no data references, or the command line cannot be used.
        """
        from tasks.command_line import exit_status, run_references

        if not hasattr(cls, "runDataRef"):
            raise CallerError(f"{cls.__name__} knows no data references: run it with 'pipetask run'")
        parser, parsed, results = run_references(cls, args, config, log, doReturnResults)
        exit_status(results, lambda r: int(r["exitStatus"]), no_exit=parsed.noExit)
        return pipeBase.Struct(
            argumentParser=parser,
            parsedCmd=parsed,
            taskRunner=run_references,
            resultList=[pipeBase.Struct(**r) for r in results],
        )

    def writeConfig(self, butler: Any, clobber: bool = False, doBackup: bool = True) -> None:
        """Store the config in the directory `butler`; a stored copy that differs is an error unless `clobber`."""
        text = self.config.saveToString() if hasattr(self.config, "saveToString") else _config_text(self.config)
        with _as_task_error():
            write_config(Path(butler) / f"{self.getName()}_config.py", text, clobber=clobber, backup=doBackup)

    def writePackageVersions(
        self, butler: Any, clobber: bool = False, doBackup: bool = True, dataset: str = "packages"
    ) -> None:
        """Store the versions of the installed packages; a stored one that differs is an error unless `clobber`."""
        with _as_task_error():
            write_package_versions(Path(butler) / f"{dataset}.json", clobber=clobber, backup=doBackup)

    def writeSchemas(self, butler: Any, clobber: bool = False, doBackup: bool = True) -> None:
        """Store the columns and types of every catalogue that the task makes; all are compared before any is written."""
        texts = {
            Path(butler) / f"{name}_schema.json": json.dumps(
                {str(c): str(t) for c, t in frame.dtypes.items()}, indent=1
            )
            for name, frame in self.getAllSchemaCatalogs().items()
        }
        with _as_task_error():
            write_together(texts, clobber=clobber, backup=doBackup)

    def writeMetadata(self, dataRef: Any) -> None:
        """Store the full metadata as JSON in the directory `dataRef`; a failure is a warning."""
        target = Path(dataRef) / f"{self.getName()}_metadata.json"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_text(target, self.getFullMetadata().model_dump_json(indent=1))
        except (OSError, ValueError) as error:
            self.log.warning("metadata cannot be written to %s: %s", target, error)


def _config_text(config: Any) -> str:
    import io

    buffer = io.StringIO()
    config.saveToStream(buffer)
    return buffer.getvalue()


_Task = TypeVar("_Task", bound=AlertTask)


def make_config(config_class: type[Any], overrides: Mapping[str, Any] | None = None) -> Any:
    """Return a config with `overrides` (values by dotted field name), validated and frozen.

    Raises
    ------
    CallerError
        An unknown field, or a value that the config refuses.
    """
    title = config_class.__name__
    config = config_class()
    for name, value in (overrides or {}).items():
        target: Any = config
        *parents, leaf = str(name).split(".")
        try:
            for parent in parents:
                target = getattr(target, parent)
            if leaf not in target._fields:
                raise AttributeError(f"there is no field {leaf!r}")
            setattr(target, leaf, value)
        except (AttributeError, pexConfig.FieldValidationError, TypeError, ValueError) as error:
            raise CallerError(f"{title} field {name!r}: {_reason(error)}") from error
    try:
        config.validate()
    except (pexConfig.FieldValidationError, ValueError) as error:
        raise CallerError(f"{title}: {_reason(error)}") from error
    config.freeze()
    return config


def _reason(error: Exception) -> str:
    """Return what is wrong, without the lines of pex_config that say where in the code the field was defined."""
    return str(error).partition("\nFor more information")[0]


def make_task(task_class: type[_Task], overrides: Mapping[str, Any] | None = None, **kwargs: Any) -> _Task:
    """Build a task with its own frozen config.

    Parameters
    ----------
    task_class
        The class to make.
    overrides
        Config values by dotted field name.
    kwargs
        Further constructor arguments.

    Raises
    ------
    CallerError
        An unknown field, or a value that the config refuses.
    """
    return task_class(config=make_config(task_class.ConfigClass, overrides), **kwargs)
