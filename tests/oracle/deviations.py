"""Where our answers may differ from the real tritonserver's, each with its reason.

A key is a pattern (`*` is anything) over `test:path`, as the suite prints a difference. `recording` reads it.
"""

from __future__ import annotations

_COUNTED = "Triton counts the inputs and says that none is missing, in half a list; we name the one that it has not"
_PARSER = "the parser's own words; the beginning is the same, and statuses are held to"
_REASON = "the same words, and then the reason, which Triton has in its log alone"
_ONE_BAD_MODEL = (
    "one model that does not start is no reason to take the others away: /v2/health/ready is about the server"
)
_LENGTH = "what is no number is refused as such; Triton reads x as 0, which makes raw bytes of JSON"

_TRACED = "Triton wants a trace file, which no client may name; ours go to the log, so that they can be switched on"

_ERRORS = "an answer that is an error is a failure here: Triton counts it as a success, where no dashboard sees it"

DEVIATIONS: dict[str, str] = {
    "test_requests_that_are_sent_together[*of them*error*]:.counted.*": _ERRORS,
    "test_server_metadata*:*.name": "our name is wharf: clients show it and do not compare it",
    "test_server_metadata*:*.version": "our version, not Triton's",
    "test_server_metadata*:*.extensions*": "ours are those that we serve; CUDA shared memory is not among them",
    "test_routes[GET-/v2]:.metadata.json.*": "as above",
    "test_routes[GET-/v2/cudasharedmemory/status]:*": "CUDA shared memory is refused, as Triton does since 2026 (501)",
    "test_trace_settings_change[*-trace_level0]:.changed*": _TRACED,
    "test_trace_settings_change[*-trace_level0]:.after.*trace_level*": _TRACED,
    "test_trace_settings_change[*-trace_level0]:.after.*trace_rate*": _TRACED,
    "test_log_settings_change[http*-log_format=fancy]:.changed.*": "400 as over gRPC: 503 tells clients to ask again",
    "test_what_is_refused[*unknown input]:.error": _COUNTED,
    "test_every_datatype_in_json[http*FP32]:.response.outputs[0].data[1]": "the same FP32 in its fewest digits",
    "test_a_model_name_is_quoted[http*]:.error": "names may have slashes here: a model of that name",
    "test_an_fp16_output_in_json[*]:*": "numbers of FP16 have a JSON here; Triton refuses them",
    "test_bodies_of_infer[not JSON]:.json.error": _PARSER,
    "test_bodies_of_infer[half of it]:.json.error": _PARSER,
    "test_bodies_of_infer[more than it]:.json.error": _PARSER,
    "test_header_lengths_that_are_wrong[1]:.json.error": _PARSER,
    "test_header_lengths_that_are_wrong[x]:.json.error": _LENGTH,
    "test_header_lengths_that_are_wrong:.json.error": _LENGTH,
    "test_header_lengths_that_are_wrong[256.5]:*": "no number of bytes; Triton reads as much of it as is one",
    "test_content_encodings_that_the_body_has_not[gzip]:.json.error": "said as it is; to Triton it is an empty body",
    "test_content_encodings_that_the_body_has_not[GZIP]:*": "codings have no case (RFC 9110 8.4.1): it is read as gzip",
    "test_routes[GET-/v2/models/add_sub/nonsense]:.json.error": "names may have slashes here: a model of that name",
    "test_routes[GET-/v2/models/add%5Fsub]:*": "names are percent-decoded on all routes; Triton forgets this one",
    "test_routes[GET-/nonsense]:.json.error": "outside of /v2, where SageMaker's routes are: it names them",
    "test_bodies_of_unload[{]:*": "a body that is no JSON is refused, as with load; Triton unloads all the same",
    "test_bodies_of_load[not JSON]:.json.error": _PARSER,
    "test_bodies_of_load[a file that is no base64]:*": "refused in words; Triton runs what it makes of it",
    "test_what_cannot_be_polled*:.load.error": _REASON,
    "test_a_configuration_that_cannot_be_used*:.load.error": _REASON,
    "test_files_without_a_configuration[*-file]:.load.error": _REASON,
    "test_files_may_not_leave_the_folder*:.load.error": _REASON,
    "test_a_model_that_fails_to_start*:.server ready": _ONE_BAD_MODEL,
    "test_a_model_that_fails_to_start*:.server ready after": _ONE_BAD_MODEL,
    "test_a_configuration_that_comes_with_the_load_is_used*:.max_batch_size after": (
        "a load without a configuration is served by the model's own; Triton goes on with the one that came before, as "
        "the folder did not change"
    ),
    "test_model_ready[*-spare]:": "it would be served: standalone mode loads it when asked for",
    "test_bodies_of_index[{]:.json.error": _PARSER,
    "test_generate[*not JSON]:.json.error": _PARSER,
    "test_generate[*nothing]:.json.error": _PARSER,
    "test_bodies_of_settings[*-{]:.json.error": _PARSER,
}
