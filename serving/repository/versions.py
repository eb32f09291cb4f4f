"""Which versions of a model are served: those that its version_policy names, the highest for who names none.

`layouts` and the rooms that find handlers ask here for a version's folder; `config_pbtxt` reads the policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.folders import version_folders

UNVERSIONED = "1"
"""The version of a model whose folder has none."""

_LISTED_MAX = 10


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The newest `count` (0: all), or, where there are any, the `wanted`."""

    count: int = 1
    wanted: tuple[int, ...] = ()


def read_policy(model: str, config: Any) -> VersionPolicy:
    """Return the version_policy of a `ModelConfig` message; raises `InvalidArtifactError` for one of no versions."""
    policy = config.version_policy
    chosen = policy.WhichOneof("policy_choice")
    if chosen == "all":
        return VersionPolicy(0)
    if chosen == "specific":
        if not policy.specific.versions:
            raise InvalidArtifactError(f"config.pbtxt of '{model}' has version_policy specific {{}}: name a version.")
        return VersionPolicy(0, tuple(sorted(set(policy.specific.versions))))
    return VersionPolicy(max(1, policy.latest.num_versions))


def served_version(model: str, folder: Path, policy: VersionPolicy | None) -> Path | None:
    """Return the folder of the highest version to serve, None where `folder` has no versions.

    Raises `InvalidArtifactError` for a version that the policy names and that is not there.
    """
    found = {int(each.name): each for each in version_folders(folder)}
    there = sorted(found) or [int(UNVERSIONED)]
    for version in policy.wanted if policy else ():
        if version not in there:
            raise InvalidArtifactError(
                f"config.pbtxt of '{model}' has version_policy specific {version}, and the versions there are "
                f"{there[:_LISTED_MAX]}: add it or name one of those."
            )
    wanted = policy.wanted if policy and policy.wanted else there
    return found.get(max(wanted))


def other_versions(folder: Path, policy: VersionPolicy | None) -> tuple[int, ...]:
    """Return the versions, ascending, that the policy wants besides the one that `served_version` gives."""
    there = sorted(int(each.name) for each in version_folders(folder))
    policy = policy or VersionPolicy()
    wanted = policy.wanted or tuple(there[-policy.count :] if policy.count else there)
    return wanted[:-1]
