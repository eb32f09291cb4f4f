"""What SageMaker's TensorFlow container takes becomes a body of TensorFlow Serving's API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codecs.tfs_container import MEDIA, is_open_inference, media_of, to_api
from serving.errors import BadRequestError

JSON, LINES, JSONS, CSV = MEDIA


def rows(body: bytes | str, media: str) -> Any:
    """Return the instances that a body stands for."""
    return json.loads(to_api(body.encode() if isinstance(body, str) else body, media))["instances"]


@pytest.mark.parametrize(
    "body", ['{"instances": [1]}', '{"inputs":{"a": 1}}', '{"examples" : [{}]}', '{"x": 1, "inputs": 2}']
)
@pytest.mark.parametrize("media", [JSON, LINES, JSONS])
def test_the_api_s_own_bodies_go_on_as_they_are(body: str, media: str) -> None:
    """Wherever the key is."""
    assert to_api(body.encode(), media) == body.encode()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        (" [ [1, 2]]", [[1, 2]]),
        ("[1, 2]", [[1, 2]]),
        ('{"a": 1}', [{"a": 1}]),
        ("5", [5]),
        ('"text"', ["text"]),
        ('{"a": [1]}\n{"a": [2]}', [{"a": [1]}, {"a": [2]}]),
        ("[1]\r\n\r\n[2]\n", [[1], [2]]),
    ],
)
@pytest.mark.parametrize("media", [JSON, LINES, JSONS])
def test_json_without_those_keys_is_rows_or_a_row(body: str, found: Any, media: str) -> None:
    """An array of arrays is rows; lines are a row each, under any of its types."""
    assert rows(body, media) == found


def test_json_over_several_lines_is_one_document() -> None:
    """Unless its type says that it is lines."""
    assert rows('{\n "a": [\n 1\n ]\n}', JSON) == [{"a": [1]}]


def test_a_picture_as_a_list_is_one_row() -> None:
    """The CIFAR request: [1, 32, 32, 3]."""
    picture = [[[[0, 127, 255]] * 32] * 32]
    assert rows(json.dumps(picture), JSON) == picture


def test_lines_may_be_anything_under_their_own_type() -> None:
    """The container refuses these."""
    assert rows("1\n2", LINES) == [1, 2]
    assert rows('"a"\n"b"', JSONS) == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("1,2\n3,4", [[1, 2], [3, 4]]),
        ("1\n2\n", [1, 2]),
        ("1,2", [[1, 2]]),
        ("-1.5e3,+2,.5,007", [[-1500, 2, 0.5, 7]]),
        ("a,b", [["a", "b"]]),
        ("a", ["a"]),
        ('"a,b",1', [["a,b", 1]]),
        ('"say ""x""",', [['say "x"', ""]]),
        ("a\\b,é", [["a\\b", "é"]]),
        ("1,2\r\n\r\n3,4\r\n", [[1, 2], [3, 4]]),
        ("1 2", ["1 2"]),
        ("", []),
    ],
)
def test_csv_is_a_row_a_line(body: str, found: Any) -> None:
    """Of one column each value is a row by itself; numbers are numbers, all else is text."""
    assert rows(body, CSV) == found


def test_csv_that_is_no_text_is_refused() -> None:
    """With what to send."""
    with pytest.raises(BadRequestError, match="not UTF-8"):
        to_api(b"\xff", CSV)


fields = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text("ab\",x 'é", max_size=5))


@given(st.lists(st.lists(fields, min_size=2, max_size=4), min_size=1, max_size=4))
def test_quoted_csv_comes_back(table: list[list[Any]]) -> None:
    """As the csv module would write it."""
    lines = [
        ",".join('"' + each.replace('"', '""') + '"' if isinstance(each, str) else repr(each) for each in row)
        for row in table
    ]
    assert rows("\n".join(lines), CSV) == table


@given(st.binary(max_size=60), st.sampled_from(MEDIA))
def test_any_body_is_turned_into_one_or_refused(body: bytes, media: str) -> None:
    """What does not parse is for the next reader to say."""
    try:
        assert isinstance(to_api(body, media), bytes)
    except BadRequestError:
        assert media == CSV


def test_a_content_type_is_known_with_its_parameters() -> None:
    """And none is JSON."""
    assert [media_of(each) for each in (None, "", "Text/CSV; charset=utf-8", "application/json")] == [
        JSON,
        JSON,
        CSV,
        JSON,
    ]


def test_bodies_of_open_inference_are_known() -> None:
    """They have another route's form."""
    assert is_open_inference(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}')
    assert not is_open_inference(b'{"inputs": [1]}')
