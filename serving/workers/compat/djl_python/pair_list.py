"""An ordered list of key and value pairs, in which a key may occur twice or be None.

It holds the content of an `Input` and of an `Output`. Handlers read `keys` and `values` directly too.
"""

from __future__ import annotations

from typing import Any


class PairList:
    """Pairs in their order of arrival; `keys` and `values` are parallel lists."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.values: list[Any] = []

    def add(self, key: Any = None, value: Any = None, index: int | None = None, pair: Any = None) -> None:
        """Add `pair`, or `key` and `value`, at `index` or at the end. A value of None is ignored."""
        if pair is not None:
            key, value = pair
        if value is None:
            return
        position = len(self.keys) if index is None else index
        self.keys.insert(position, key)
        self.values.insert(position, value)

    def add_all(self, other: PairList | None) -> None:
        """Add every pair of `other`."""
        if other is not None:
            self.keys.extend(other.keys)
            self.values.extend(other.values)

    def get(self, key: Any) -> Any:
        """Return the first value of `key`, None where there is none."""
        return self.values[self.keys.index(key)] if key in self.keys else None

    def key_at(self, index: int) -> Any:
        """Return the key at `index`."""
        return self.keys[index]

    def value_at(self, index: int) -> Any:
        """Return the value at `index`."""
        return self.values[index]

    def get_keys(self) -> list[Any]:
        """Return the keys, in order."""
        return self.keys

    def get_values(self) -> list[Any]:
        """Return the values, in order."""
        return self.values

    def size(self) -> int:
        """Count the pairs."""
        return len(self.keys)

    def is_empty(self) -> bool:
        """Tell whether there is no pair."""
        return not self.keys
