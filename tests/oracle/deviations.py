"""Where our answers may differ from the real tritonserver's, each with its reason.

A key is a pattern (`*` is anything) over `test:path`, as the suite prints a difference. `recording` reads it.
"""

from __future__ import annotations

_UNORDERED = "Triton lists inputs in the order of a hash table"
_PARSER = "the parser's own words; the beginning is the same, and statuses are held to"

_TRACED = "Triton wants a trace file, which no client may name; ours go to the log, so that they can be switched on"

DEVIATIONS: dict[str, str] = {
    "test_server_metadata*:*.name": "our name is wharf: clients show it and do not compare it",
    "test_server_metadata*:*.version": "our version, not Triton's",
    "test_server_metadata*:*.extensions*": "ours are those that we serve; CUDA shared memory is not among them",
    "test_routes[GET-/v2]:.metadata.json.*": "as above",
    "test_routes[GET-/v2/cudasharedmemory/status]:*": "CUDA shared memory is refused, as Triton does since 2026 (501)",
    "test_trace_settings_change[*-trace_level0]:.changed*": _TRACED,
    "test_trace_settings_change[*-trace_level0]:.after.*trace_level*": _TRACED,
    "test_trace_settings_change[*-trace_level0]:.after.*trace_rate*": _TRACED,
    "test_log_settings_change[http*-log_format=fancy]:.changed.*": "400 as over gRPC: 503 tells clients to ask again",
    "test_what_is_refused[*unknown input]:.error": _UNORDERED,
    "test_bodies_of_infer[not JSON]:.json.error": _PARSER,
    "test_bodies_of_infer[half of it]:.json.error": _PARSER,
    "test_bodies_of_infer[more than it]:.json.error": _PARSER,
    "test_header_lengths_that_are_wrong[1]:.json.error": _PARSER,
    "test_bodies_of_load[not JSON]:.json.error": _PARSER,
    "test_bodies_of_index[{]:.json.error": _PARSER,
    "test_generate[*not JSON]:.json.error": _PARSER,
    "test_generate[*nothing]:.json.error": _PARSER,
    "test_bodies_of_settings[*-{]:.json.error": _PARSER,
}
