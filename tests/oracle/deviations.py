"""Where our answers may differ from the real tritonserver's, each with its reason.

A key is a pattern (`*` is anything) over `test:path`, as the suite prints a difference. `recording` reads it.
"""

from __future__ import annotations

DEVIATIONS: dict[str, str] = {
    "test_server_metadata*:*.name": "our name is wharf: clients show it and do not compare it",
    "test_server_metadata*:*.version": "our version, not Triton's",
    "test_server_metadata*:*.extensions*": "ours are those that we serve; CUDA shared memory is not among them",
}
