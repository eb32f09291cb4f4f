"""What a pool says to a request that it does not take: 503, with the model's name and the reason.

Values only; when each is said is `pool`'s business.
"""

from __future__ import annotations

from serving.errors import UnavailableError
from serving.workers.instance import WorkerLostError


def busy(name: str) -> UnavailableError:
    """Return the error for who waited as long as it may."""
    return UnavailableError(f"Model '{name}' is busy: no worker was free in time.")


def full(name: str, waiting: int) -> UnavailableError:
    """Return the error for one more than may wait."""
    return UnavailableError(f"Model '{name}' has {waiting} requests waiting, its limit: try again.")


def resting(name: str, last_death: str) -> UnavailableError:
    """Return the error while no worker lives and the next one is not started yet."""
    return WorkerLostError(f"Model '{name}' has no worker just now and gets a new one soon: {last_death}")


def gone(name: str, reason: str) -> UnavailableError:
    """Return the error for whoever comes after the end."""
    return UnavailableError(f"Model '{name}' takes no requests: {reason}")
