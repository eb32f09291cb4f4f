"""Tables as text: CSV and JSON lines."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

from serving.codecs import tabular
from serving.codecs.media import decode
from serving.errors import BadRequestError, NotAcceptableError
from serving.tensors import Array, Signature
from tests.unit.codecs.signatures import IMAGE, PAIR, ROWS, TEXT, UNTOLD, signature

CSV = "text/csv"
LINES = "application/jsonlines"
TABLE = signature(("x", "INT64", (-1, 2)))


def read(text: str, wanted: Signature = ROWS, content_type: str = CSV) -> dict[str, Array]:
    """Decode a text body."""
    return decode(text.encode(), content_type, wanted).tensors


def refusal(text: str, wanted: Signature = ROWS, content_type: str = CSV) -> str:
    """Return what the sender of a bad body is told."""
    with pytest.raises(BadRequestError) as fault:
        read(text, wanted, content_type)
    return fault.value.message


# -- CSV in


@pytest.mark.parametrize(
    "text", ["1,2,3,4\n5,6,7,8", "1,2,3,4\r\n5,6,7,8\r\n", " 1, 2.0,3e0 ,+4\n\n5,6,7,8\n\n", "1,2,3,4.\n5,6,7,8.0"]
)
def test_rows_of_numbers_are_the_one_input(text: str) -> None:
    """With any line ends, blanks and spellings of numbers."""
    x = read(text)["x"]

    assert x.dtype == np.float32
    assert x.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("text", ["1,2,3", "1\n2\n3\n"])
def test_a_vector_is_a_column_or_a_row(text: str) -> None:
    """Rank 1 has no other way to be a table."""
    assert read(text, signature(("x", "FP32", (-1,))))["x"].tolist() == [1, 2, 3]
    assert "has shape [2, 2]" in refusal("1,2\n3,4", signature(("x", "FP32", (-1,))))


def test_integers_are_read_to_the_last_digit_and_whole_floats_are_integers() -> None:
    """No way through a double where the text is an integer."""
    assert read(f"{2**53 + 1},{-(2**63)}", TABLE)["x"].tolist() == [[2**53 + 1, -(2**63)]]
    assert read("1.0,2", TABLE)["x"].tolist() == [[1, 2]]
    assert read(f"{2**64 - 1}", signature(("x", "UINT64", (-1, 1))))["x"].tolist() == [[2**64 - 1]]


def test_a_model_that_tells_no_type_gets_fp32() -> None:
    """CSV has no types, and most models of tables are of floats."""
    x = read("1,2\n3,4", UNTOLD)["x"]

    assert x.dtype == np.float32
    assert x.shape == (2, 2)


def test_nan_and_infinity_are_numbers_in_csv() -> None:
    """A missing value is written nan, as pandas can."""
    assert np.isnan(read("nan,1,inf,-inf")["x"]).tolist() == [[True, False, False, False]]
    assert "nan at [0][0] and wants values that are whole" in refusal("nan,1", TABLE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The CSV is empty"),
        (" \r\n", "The CSV is empty"),
        ("a,b,c,d\n1,2,3,4", "Row 1 of the CSV has no number in it: if it is a header, leave it out"),
        ("1,2,3,4\n\n1,2,x,4", "Row 3, column 3 of the CSV is 'x' and wants a number"),
        ("1,2,3,4\n1,2,,4", "Row 2, column 3 of the CSV is '' and wants a number"),
        ("1,2,3,4,", "Row 1, column 5 of the CSV is ''"),
        ("1,2,3,4\n1,2,3", "Row 2 of the CSV has 3 columns and the rows before it have 4"),
        ('"1",2,3,4', "Row 1, column 1 of the CSV is '\"1\"'"),
        ("1;2;3;4", "Row 1 of the CSV has no number in it"),
        ("1,2,3,4\r5,6,7,8", "Row 1, column 4 of the CSV is '4"),
        ("1_0,2,3,4", "does not parse: could not convert string '1_0'"),
        ("1,2,3", "'x' has shape [1, 3] and the model wants [-1, 4]"),
        ("1e39,2,3,4", "'x' has 1e+39 at [0][0] and wants values that fit float32"),
    ],
)
def test_a_fault_has_its_row_and_column(text: str, said: str) -> None:
    """Counted from 1, blank lines included."""
    assert said in refusal(text)


@pytest.mark.parametrize(
    ("text", "wanted", "said"),
    [
        ("1.5,2", TABLE, "'x' has 1.5 at [0][0]"),
        ("1,99999999999999999999", TABLE, "'x' has 1e+20 at [0][1]"),
        ("300,1", signature(("x", "UINT8", (-1, 2))), "'x' has 300 at [0][0]"),
        ("1,0", signature(("x", "BOOL", (-1, 2))), "the model wants BOOL"),
        ("1,2", IMAGE, "dims [-1, 3, 32, 32]: send application/json"),
        ("1", signature(("x", "FP32", ())), "dims []"),
    ],
)
def test_a_table_that_the_input_cannot_hold_is_refused(text: str, wanted: Signature, said: str) -> None:
    """By type, by value or by rank."""
    assert said in refusal(text, wanted)


def test_text_that_is_no_utf_8_is_told_the_byte() -> None:
    """Spreadsheets write other encodings."""
    with pytest.raises(BadRequestError, match="not UTF-8 at byte 2"):
        decode(b"1,\xe9", CSV, ROWS)


def test_columns_are_dealt_out_in_order_when_widths_are_known() -> None:
    """Two columns for `a`, one for `b`."""
    tensors = read("1.5,2,3\n4.5,5,6", PAIR)

    assert (tensors["a"].tolist(), tensors["b"].tolist()) == ([[1.5, 2], [4.5, 5]], [3, 6])
    assert [str(array.dtype) for array in tensors.values()] == ["float32", "int64"]
    assert all(array.flags.c_contiguous for array in tensors.values())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (PAIR, "The CSV has 4 columns and the model wants 3 (a: 2, b: 1)"),
        (signature(("a", "FP32", (-1, -1)), ("b", "FP32", (-1,))), "'a' is FP32 with dims [-1, -1]"),
        (signature(("a", "FP32", (-1, 2)), ("b", None, None)), "'b' is None with dims unknown"),
        (signature(("a", "FP32", (-1, 2)), ("b", "BYTES", (-1, 2))), "'b' is BYTES"),
        (signature(("a", "FP32", (-1, 2, 2)), ("b", "FP32", (-1,))), "'a' is FP32 with dims [-1, 2, 2]"),
    ],
)
def test_columns_that_cannot_be_dealt_out_are_refused(wanted: Signature, said: str) -> None:
    """Unknown widths, strings, higher ranks, or another count."""
    assert said in refusal("1,2,3,4", wanted)


def test_strings_may_be_quoted() -> None:
    """Commas, quotes and newlines inside quotes, as RFC 4180 has them."""
    wanted = signature(("text", "BYTES", (-1, 2)))
    texts = read('a,"b,""c"\r\n\r\nd,"é\nf"\r\n', wanted)["text"]

    assert texts.tolist() == [[b"a", b'b,"c'], [b"d", "é\nf".encode()]]
    assert read("a\nb", TEXT)["text"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\nc", "Row 2 of the CSV has 1 columns and row 1 has 2"),
        ('a,"b', "Row 1 of the CSV does not parse"),
        ("a" * 200_000, "field larger than field limit"),
    ],
)
def test_bad_rows_of_strings_have_their_number(text: str, said: str) -> None:
    """Ragged rows, open quotes, endless cells."""
    assert said in refusal(text, signature(("text", "BYTES", (-1, 2))))


# -- CSV out


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"y": [[1.5, 2], [3, 4]]}, "1.5,2.0\n3.0,4.0\n"),
        ({"y": [1, 2]}, "1\n2\n"),
        ({"y": 7}, "7\n"),
        ({"y": [True, False]}, "true\nfalse\n"),
        ({"y": [[0.1, np.nan], [np.inf, -np.inf]]}, "0.1,nan\ninf,-inf\n"),
        ({"y": [[1, 2], [3, 4]], "z": [0.5, 1.5]}, "1,2,0.5\n3,4,1.5\n"),
        ({"y": np.empty((0, 2))}, ""),
        ({"y": np.empty((2, 0))}, "\n\n"),
        ({"y": [[1, 2], [3, 4]], "z": [[b"a"], ['b,"']]}, '1,2,a\n3,4,"b,"""\n'),
        ({"y": np.array([[1, 2], [3, 4]]).T}, "1,3\n2,4\n"),
    ],
)
def test_outputs_are_columns_side_by_side(outputs: dict[str, Any], text: str) -> None:
    """A row a line; what JSON has no number for is nan and inf."""
    arrays = {
        name: np.asarray(value, object if name == "z" and isinstance(value[0], list) else None)
        for name, value in outputs.items()
    }

    assert tabular.write_csv(arrays).decode() == text


def test_float32_is_written_in_the_fewest_digits_that_read_back() -> None:
    """0.1 is 0.1, and every value survives."""
    values = np.random.default_rng(3).random((100, 7), dtype=np.float32)
    text = tabular.write_csv({"y": values}).decode()

    assert np.array_equal(np.array(list(csv.reader(io.StringIO(text))), np.float32), values)
    assert tabular.write_csv({"y": np.array([0.1], np.float32)}) == b"0.1\n"
    assert tabular.write_csv({"y": np.array([0.1, np.nan], np.float32)}) == b"0.1\nnan\n"


@pytest.mark.parametrize(
    "outputs", [{"y": np.ones((1, 2, 3))}, {"y": np.ones(2), "z": np.ones(3)}, {"y": np.ones(2), "z": np.ones(())}, {}]
)
def test_outputs_that_are_no_table_are_refused(outputs: dict[str, Array]) -> None:
    """Higher ranks, different rows, nothing at all."""
    with pytest.raises(NotAcceptableError, match="CSV has rows and columns and the outputs have shapes"):
        tabular.write_csv(outputs)


# -- JSON lines


@pytest.mark.parametrize(
    "text", ["[1,2,3,4]\n[5,6,7,8]", "\n[1,2,3,4]\r\n \n[5,6,7,8]\n", '{"x":[1,2,3,4]}\n{"x":[5,6,7,8]}\n']
)
def test_every_line_is_an_instance(text: str) -> None:
    """Values or objects by name; blank lines are none."""
    assert read(text, ROWS, LINES)["x"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_lines_of_objects_feed_several_inputs() -> None:
    """As instances do."""
    tensors = read('{"a":[1,2],"b":3}\n{"a":[4,5],"b":6}', PAIR, LINES)

    assert (tensors["a"].tolist(), tensors["b"].tolist()) == ([[1, 2], [4, 5]], [3, 6])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The body has no line with an instance"),
        ("[1,2,3,4]\n\n[1,2,3,", "Line 3 is not JSON at line 1, column 8"),
        ("[1,2,3,4],\n[5,6,7,8]", "Line 1 is not JSON"),
        ('{"x":1}\n{"x":1,"x":2}', "Line 2 has the key 'x' twice in one object"),
        ("[1,2,3,4]\n[1,2]", "'x' is ragged: [1] has 2 elements"),
        ('{"x":[1,2,3,4]}\n[1,2,3,4]', "Row 1 is [1, 2, 3, 4]"),
    ],
)
def test_a_bad_line_has_its_number(text: str, said: str) -> None:
    """Each line is parsed for itself."""
    assert said in refusal(text, ROWS, LINES)


def test_answers_are_a_row_a_line() -> None:
    """Values of one output, objects of several."""
    y, z = np.array([[1, 2], [3, 4]]), np.array([b"a", b"b"], object)

    assert tabular.write_lines({"y": y}) == b"[1,2]\n[3,4]\n"
    assert tabular.write_lines({"y": y, "z": z}) == b'{"y":[1,2],"z":"a"}\n{"y":[3,4],"z":"b"}\n'
    assert tabular.write_lines({"y": np.array([0.5, np.nan])}) == b"0.5\nnull\n"


@pytest.mark.parametrize("outputs", [{"y": np.ones(())}, {"y": np.ones(2), "z": np.ones(3)}, {}])
def test_answers_without_rows_are_refused(outputs: dict[str, Array]) -> None:
    """There is nothing to write a line of."""
    with pytest.raises(NotAcceptableError, match="The outputs share no rows"):
        tabular.write_lines(outputs)
