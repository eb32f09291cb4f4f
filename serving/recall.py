"""What is remembered of models that are not loaded: where they are loaded from again, by which names, and whether.

A model that was loaded by a url, or from what came with its load, comes back from there after an eviction; one that was
unloaded for good is barred: no mere request loads it; of one whose last load failed the reason is kept. `manager`
writes here, under the lock of `residents`, as things happen to models; `catalog` asks, and says what is to follow a
model that it loads anew.
"""

from __future__ import annotations

from serving.errors import InvalidArtifactError, LoadFailedError, ServingError
from serving.lifecycle import State
from serving.residents import Resident, Residents


class Recall:
    """The names that the table of residents does not have, or not by what people call them."""

    def __init__(self, residents: Residents) -> None:
        self._lock = residents.lock
        self._by_name = residents.by_name
        self.urls: dict[str, str] = {}  # names loaded by url: standalone finds them again after an eviction
        self.aliases: dict[str, str] = {}  # names as asked for -> names of the repository
        self.barred: set[str] = set()  # names that no mere request loads, none of them READY
        self.failed: dict[str, str] = {}  # names whose last load failed, and why; a request tries again

    # ---- under the lock, for `manager` ------------------------------------------------------------------------------

    def named(self, asked: str) -> Resident | None:
        """Return who is resident by a name, as it was asked for or as the repository has it."""
        return self._by_name.get(asked) or self._by_name.get(self.aliases.get(asked, asked))

    def ready(self, asked: str) -> Resident | None:
        """Return who is READY by a name."""
        resident = self.named(asked)
        return resident if resident is not None and resident.state is State.READY else None

    def arrives(self, name: str) -> None:
        """Forget what kept a model away that is loaded now."""
        self.barred.discard(name)
        self.failed.pop(name, None)

    def fails(self, name: str, error: ServingError) -> None:
        """Keep why a load failed, where that is the model's own fault: want of memory or of time passes."""
        if isinstance(error, (LoadFailedError, InvalidArtifactError)):
            self.failed[name] = error.message

    def leaves(self, name: str, resident: Resident | None, *, stays_away: bool) -> None:
        """Forget where a model came from that is unloaded, evicted before where there is no `resident`."""
        whole = name if resident is None else resident.name
        if resident is None or self.urls.get(whole) == resident.url:  # else it is that of what is to follow
            self.urls.pop(whole, None)
        if stays_away:
            self.barred.add(whole)

    # ---- for everybody ----------------------------------------------------------------------------------------------

    def is_wanted(self, url: str) -> bool:
        """Say whether a model was loaded from `url` and not unloaded since, evicted or not."""
        with self._lock:
            return url in self.urls.values()

    def knows(self, name: str) -> bool:
        """Say whether `name` was loaded by a url, from which it is loaded again after an eviction."""
        with self._lock:
            return name in self.urls

    def expect(self, name: str, url: str | None) -> None:
        """Have requests load `name` from `url` once it is not loaded; without one, from where the repository has it."""
        with self._lock:
            self.urls.pop(name, None)
            if url is not None:
                self.urls[name] = url

    def bar(self, name: str) -> None:
        """Let no mere request load `name` until somebody loads it; one that is READY stays as it is."""
        with self._lock:
            if self.ready(name) is None:
                self.barred.add(name)

    def unbar(self, *names: str) -> None:
        """Let requests load these again."""
        with self._lock:
            self.barred.difference_update(names)

    def is_barred(self, name: str) -> bool:
        """Say whether no mere request loads `name`."""
        return name in self.barred

    def evicted(self) -> dict[str, str]:
        """Return the urls of models that a request loads again; not while it does so, which may end the process."""
        with self._lock:
            return {name: url for name, url in self.urls.items() if self._is_out(self._by_name.get(name), url)}

    @staticmethod
    def _is_out(resident: Resident | None, url: str) -> bool:
        return resident is None or (resident.state is State.UNLOADING and resident.url == url)
