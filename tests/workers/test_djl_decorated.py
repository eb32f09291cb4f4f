"""DJL's `model.py` without a `handle`: decorated functions, or SageMaker's own."""

from __future__ import annotations

import json

import pytest

from tests.workers.djl_cases import LoadModel, ask, load_model

__all__ = ["load_model"]


def test_decorated_functions_make_a_handler(load_model: LoadModel) -> None:
    """Model, input, prediction and output, each marked."""
    code = """
    from djl_python.input_parser import init_handler, input_formatter, prediction_handler
    from djl_python.output_formatter import output_formatter

    @init_handler
    def load(model_dir, **kwargs):
        return 10 if os.path.isdir(model_dir) else 0

    @input_formatter
    def parse(inputs, **kwargs):
        return inputs.get_as_json()["features"]

    @prediction_handler
    def predict(x, model, **kwargs):
        return [each * model for each in x]

    @output_formatter
    def form(predictions):
        return {"scaled": predictions}
    """
    reply = ask(load_model(code), b'{"features": [1, 2]}')
    assert (json.loads(bytes(reply.body)), reply.headers) == (
        {"scaled": [10, 20]},
        {"Content-Type": "application/json"},
    )


@pytest.mark.parametrize(
    ("body", "headers", "wanted"),
    [
        (
            b'{"inputs": [[1, 2], [3, 4]]}',
            {"Content_Type": "application/json"},
            b'{\n  "predictions":[\n    3.0,\n    7.0\n  ]\n}',
        ),
        (b"1,2\n3,4\n", {"Content_Type": "text/csv", "Accept": "text/csv"}, b"3.0\n7.0\n"),
    ],
)
def test_decorated_functions_have_defaults(
    load_model: LoadModel, body: bytes, headers: dict[str, str], wanted: bytes
) -> None:
    """Numbers in, predictions out, as JSON or CSV."""
    code = """
    from djl_python.input_parser import init_handler

    @init_handler
    def load(model_dir):
        return lambda rows: rows.sum(-1) * 1.0
    """
    assert bytes(ask(load_model(code), body, **headers).body) == wanted


@pytest.mark.parametrize(("made", "wanted"), [("Output(201).add('x')", b"x"), ("'text'", b"text"), ("b'raw'", b"raw")])
def test_a_decorated_formatter_may_return_text_or_an_output(load_model: LoadModel, made: str, wanted: bytes) -> None:
    """They are sent as they are."""
    code = f"""
    from djl_python.input_parser import prediction_handler
    from djl_python.output_formatter import output_formatter

    @prediction_handler
    def predict(x, model):
        return x

    @output_formatter
    def form(prediction):
        return {made}
    """
    assert bytes(ask(load_model(code), b"[1]").body) == wanted


def test_functions_in_sagemakers_style_are_handed_on(load_model: LoadModel) -> None:
    """model_fn and its kind in model.py."""
    code = """
    def model_fn(model_dir):
        return 3

    def input_fn(body, content_type):
        return len(body)

    def predict_fn(data, model):
        return data * model

    def output_fn(prediction, accept):
        return str(prediction)
    """
    reply = ask(load_model(code), b"1234", Content_Type="text/plain", Accept="text/plain")
    assert bytes(reply.body) == b"12"
