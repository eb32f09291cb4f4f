"""Streams that a handler gave to several requests at once: they become bodies, or end together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.workers.handler import Reply
from serving.workers.main import _gather_chunks


class Pieces:
    """An iterator that tells whether it was closed."""

    def __init__(self, *pieces: bytes, fault: Exception | None = None) -> None:
        self._pieces = iter(pieces)
        self._fault = fault
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise self._fault or StopIteration

    def close(self) -> None:
        """Be closed."""
        self.is_closed = True


def test_streams_of_several_requests_become_bodies() -> None:
    """One that was a body stays one."""
    streams = Pieces(b"a", b"b"), iter((b"c",))
    replies = [*(Reply(chunks=each) for each in streams), Reply(b"d")]
    _gather_chunks(replies)
    assert [(reply.body, reply.chunks) for reply in replies] == [(b"ab", None), (b"c", None), (b"d", None)]


def test_one_that_fails_leaves_none_of_them_open() -> None:
    """Those after it were begun as well."""
    streams = [Pieces(b"a"), Pieces(b"b", fault=ValueError("torn")), Pieces(b"c")]
    with pytest.raises(ValueError, match="torn"):
        _gather_chunks([Reply(chunks=each) for each in streams])
    assert [each.is_closed for each in streams] == [True] * 3
