"""What every gRPC call goes through: places, statuses, the names of the two packages."""

from __future__ import annotations

import threading

import pytest

from serving.codecs.v2 import ParseError
from serving.errors import (
    AlreadyExistsError,
    CancelledError,
    InsufficientMemoryError,
    ModelConflictError,
    ModelFailedError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
    UnclassifiedError,
    UnsupportedError,
)
from serving.grpc.calls import fault
from serving.grpc.places import Places

STATUSES: list[tuple[ServingError, str]] = [
    (ModelFailedError("x"), "INTERNAL"),
    (ParseError("x"), "INTERNAL"),
    (ModelNotFoundError("x"), "NOT_FOUND"),
    (UnavailableError("x"), "UNAVAILABLE"),
    (UnsupportedError("x"), "UNIMPLEMENTED"),
    (ModelConflictError("x"), "ALREADY_EXISTS"),
    (InsufficientMemoryError("x"), "RESOURCE_EXHAUSTED"),
    (UnclassifiedError("x"), "UNKNOWN"),
    (AlreadyExistsError("x"), "ALREADY_EXISTS"),
    (CancelledError("x"), "CANCELLED"),
]


@pytest.mark.parametrize(("error", "name"), STATUSES)
def test_errors_have_tritons_statuses(error: ServingError, name: str) -> None:
    """With their own sentence."""
    code, text = fault(error, "r-1")
    assert (code.name, text) == (name, "x")


def test_a_bug_is_told_by_its_id_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback is in the log."""
    code, text = fault(KeyError("secret"), "r-1")
    assert (code.name, text) == ("INTERNAL", "Internal error; the log has it under request id r-1.")
    assert "secret" in caplog.text
    assert "request_id=r-1" in caplog.text


def test_a_place_too_many_is_refused_at_once() -> None:
    """And free again when one leaves."""
    places = Places(1, "calls")
    with places, pytest.raises(UnavailableError, match="1 calls are under way over gRPC, the limit"), places:
        pass
    with places:
        assert not places.wait_until_empty(0)
    assert places.wait_until_empty(0)


def test_the_end_of_the_last_call_is_waited_for() -> None:
    """Not polled for."""
    places, is_in, may_go = Places(2, "calls"), threading.Event(), threading.Event()

    def call() -> None:
        with places:
            is_in.set()
            may_go.wait(10)

    thread = threading.Thread(target=call)
    thread.start()
    is_in.wait(10)
    threading.Timer(0.05, may_go.set).start()
    assert places.wait_until_empty(10)
    thread.join(10)


def test_our_package_does_not_hide_the_library() -> None:
    """`serving.grpc` is ours, `grpc` is theirs."""
    import grpc

    import serving.grpc

    assert hasattr(grpc, "server")
    assert not hasattr(serving.grpc, "server")
