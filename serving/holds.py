"""A request's hold on a version of a model, in Triton's words where there is none.

A class and no generator, as each request makes one. What a hold on the whole model is `lease` knows; `inference` enters
this one.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from serving.backends.base import LoadedModel
from serving.backends.compound import CompoundModel
from serving.backends.ensemble import Member
from serving.catalog import spec_of
from serving.errors import InvalidArtifactError, ModelNotFoundError
from serving.lease import Lease
from serving.logs import quoted
from serving.repository.layouts import ModelSpec

log = logging.getLogger("wharf.inference")


class Hold:
    """`with` it and a version of a model is held; of one that cannot be loaded the log says why."""

    __slots__ = ("_is_asked", "_lease", "_name", "_version")

    def __init__(self, lease: Lease, name: str, version: str, is_asked: bool) -> None:
        self._lease, self._name, self._version, self._is_asked = lease, name, version, is_asked

    def __enter__(self) -> Member:
        try:
            resident = self._lease.__enter__()
        except ModelNotFoundError:
            raise _unknown(self._name) from None
        except InvalidArtifactError as error:
            if not self._is_asked:
                raise
            log.warning("event=not_served model=%s error=%r", quoted(self._name), error.message)
            raise _unknown(self._name) from None
        try:
            return version_of(resident.model, spec_of(resident), self._version)
        except BaseException:
            self._lease.__exit__(*sys.exc_info())
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.__exit__(kind, error, trace)


def version_of(model: LoadedModel, spec: ModelSpec, version: str) -> Member:
    """Return the model and the spec of one version, of the highest that is served for "" and -1.

    Raises `ModelNotFoundError` for one that is not served.
    """
    if version in ("", "-1", spec.version):
        return model, spec
    if isinstance(model, CompoundModel) and (found := model.version(version)) is not None:
        return found
    raise ModelNotFoundError(f"Request for unknown model: '{spec.name}' version {version} is not found")


def _unknown(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"Request for unknown model: '{name}' is not found")
