"""The one tree of errors that callers can meet.

Every leaf knows the HTTP status and the gRPC code that it becomes on the wire. Errors are raised deep and turned
into a reply in one place (`http.replies`). Anything that is not a `ServingError` is a bug: a 500 with the traceback in
the log and none on the wire. This room knows no transport and imports nothing of ours.

A message names the thing, what was found, what was wanted and the next step.
"""

from __future__ import annotations

# The platform shows a container's body to its client; a message that repeats what was sent must not grow with it.
MESSAGE_MAX_CHARS = 1000
# Twice that where lines are kept: the innermost frames of a model's exception are among them.
TEXT_MAX_CHARS = 2000


class ServingError(Exception):
    """An error that a caller may see: `status` for HTTP, `grpc_code` for gRPC, both by class."""

    status = 500
    grpc_code = "INTERNAL"
    retry_after_s: int | None = None
    has_run = False
    """Whether the model's own code had the request: set on an error, whatever its kind, by who knows."""

    @property
    def message(self) -> str:
        """The text in one line: no traceback, bounded, and without the surrogates of odd file names."""
        line = " ".join(str(self)[: 2 * MESSAGE_MAX_CHARS].split())[:MESSAGE_MAX_CHARS]
        return line.encode("utf-8", "backslashreplace").decode()

    @property
    def text(self) -> str:
        """The text as it was said, spaces and lines and all, for V2's wires: Triton's clients know it so. Bounded."""
        return str(self)[:TEXT_MAX_CHARS].encode("utf-8", "backslashreplace").decode()


class BadRequestError(ServingError):
    """The request itself is wrong: body, header, name or url."""

    status = 400
    grpc_code = "INVALID_ARGUMENT"


class UnclassifiedError(BadRequestError):
    """The model refused the request with Triton's code UNKNOWN."""

    grpc_code = "UNKNOWN"


class AlreadyExistsError(BadRequestError):
    """The model refused the request with Triton's code ALREADY_EXISTS, which is 400 over HTTP."""

    grpc_code = "ALREADY_EXISTS"


class CancelledError(BadRequestError):
    """The caller was gone before the request's turn, or the model refused it with Triton's code CANCELLED."""

    grpc_code = "CANCELLED"


class InvalidArtifactError(BadRequestError):
    """The artifact cannot be served, and would not be by trying again."""

    grpc_code = "FAILED_PRECONDITION"


class UnauthorizedError(ServingError):
    """A management route was called without the admin token."""

    status = 401
    grpc_code = "UNAUTHENTICATED"


class ModelNotFoundError(ServingError):
    """No model of that name is loaded (platform) or in the repository (standalone)."""

    status = 404
    grpc_code = "NOT_FOUND"


class RouteNotFoundError(ServingError):
    """No such path."""

    status = 404
    grpc_code = "UNIMPLEMENTED"


class MethodNotAllowedError(ServingError):
    """The path exists, the method does not; `allow` lists the ones that do."""

    status = 405
    grpc_code = "UNIMPLEMENTED"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class NotAcceptableError(ServingError):
    """No codec writes what the Accept header asks for."""

    status = 406
    grpc_code = "INVALID_ARGUMENT"


class ModelConflictError(ServingError):
    """The model is loaded already."""

    status = 409
    grpc_code = "ALREADY_EXISTS"


class PayloadTooLargeError(ServingError):
    """The body is over the limit."""

    status = 413
    grpc_code = "RESOURCE_EXHAUSTED"


class UnsupportedMediaTypeError(ServingError):
    """No codec reads that Content-Type."""

    status = 415
    grpc_code = "INVALID_ARGUMENT"


class ModelFailedError(ServingError):
    """The model's own computation failed on this input."""

    status = 424
    grpc_code = "FAILED_PRECONDITION"


class LoadFailedError(ServingError):
    """A backend could not make the model ready, for a reason other than memory.

    `said` is what the model's own code raised, and where, in lines; empty where it was not that.
    """

    status = 500
    grpc_code = "INTERNAL"

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class DeviceFailedError(ServingError):
    """A device (GPU) computes no more for this process; only another process may."""

    status = 500
    grpc_code = "INTERNAL"
    has_run = True


class UnavailableError(ServingError):
    """Too busy or shutting down; the same request may succeed in `retry_after_s` seconds."""

    status = 503
    grpc_code = "UNAVAILABLE"
    retry_after_s = 1


class UnsupportedError(ServingError):
    """What this server, or this model, does not do on this route."""

    status = 501
    grpc_code = "UNIMPLEMENTED"


class DeadlineExceededError(ServingError):
    """A wait ran past its limit; the work may still be going on."""

    status = 504
    grpc_code = "DEADLINE_EXCEEDED"


class InsufficientMemoryError(ServingError):
    """A reservation does not fit the budget. The platform unloads something and tries again."""

    status = 507
    grpc_code = "RESOURCE_EXHAUSTED"


class InsufficientDiskError(ServingError):
    """An artifact does not fit the disk budget."""

    status = 507
    grpc_code = "RESOURCE_EXHAUSTED"
