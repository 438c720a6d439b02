"""Text from outside in logs, terminals and failure files: printable, on its own lines, and no line of ours."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonseg.errors import DataError, describe_failure
from gluonseg.sagemaker.log import _Formatter
from gluonseg.sagemaker.metric_definitions import METRIC_DEFINITIONS
from gluonseg.text import MAX_RECORD, LineFormatter, escape_line, escape_lines

METRIC = "#quality_metric. host: algo-1, epoch: 0, validation mIOU: 0.999 ."
RECORD = "[01/01/2030 00:00:00 INFO 140000000000000] forged"


@given(st.text())
def test_any_text_becomes_printable_and_printable_text_stays(text: str) -> None:
    assert escape_line(text).isprintable()
    assert escape_line(escape_line(text)) == escape_line(text)
    assert (escape_line(text) == text) == text.isprintable()
    assert all(line.isprintable() for line in escape_lines(text).split("\n"))
    assert escape_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\x1b[2Jb\0", r"a\r\x1b[2Jb\x00"),
        ("\udcff", r"\udcff"),
        ("\u2028\u202e\x85", r"\u2028\u202e\x85"),
        ("猫 é 🐈", "猫 é 🐈"),
    ],
)
def test_how_text_is_escaped(text: str, escaped: str) -> None:
    assert escape_line(text) == escaped


def _format(template: str, *arguments: object, formatter: logging.Formatter | None = None) -> str:
    record = logging.LogRecord("x", logging.INFO, "f.py", 1, template, arguments or None, None)
    return (formatter or _Formatter()).format(record)


def _find_metrics(log: str) -> list[str]:
    return [one["Name"] for one in METRIC_DEFINITIONS if re.search(one["Regex"], log)]


HOSTILE = (
    METRIC,
    f"a\n{METRIC}",
    f"a\r\n{RECORD}",
    f"a\u2028{METRIC}",
    f"\x1b[2K\x1b[1A{RECORD}",
    "a\n#metrics {}",
    "#whole_image_metric. host: a, mIoU: 1 .",
)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("template", ["%s is damaged", "%s", "found %r", "#whole_image_metric. IoU of %s: 0.5 ."])
def test_text_from_outside_cannot_look_like_a_line_of_ours(template: str, text: str) -> None:
    found = _format(template, text)
    first, *others = re.split(r"[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", found)
    assert first.startswith("[")
    assert all(line.startswith("    ") for line in others)
    assert all(line.isprintable() for line in (first, *others))
    assert _find_metrics(found) == []


def test_our_own_metrics_stay_what_they_are() -> None:
    quality = "#quality_metric. host: %s, epoch: %d, validation %s: %s ."
    assert _find_metrics(_format(quality, "algo-1", 3, "mIOU", 0.5)) == ["validation:mIOU"]
    line = _format("#metrics %s", json.dumps({"Host": METRIC}))
    assert line.startswith("#metrics {")
    assert json.loads(line.removeprefix("#metrics ")) == {"Host": METRIC}
    assert _find_metrics(line) == []


def test_a_trace_is_indented_and_holds_no_metric() -> None:
    try:
        raise ValueError(f"x\n{METRIC}\n{RECORD}")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f.py", 1, "%s", ("failed",), sys.exc_info())
    first, *others = LineFormatter("%(levelname)s %(message)s").format(record).split("\n")
    assert first == "ERROR failed"
    assert all(line.startswith("    ") for line in others)
    assert _find_metrics("\n".join(others)) == []


def test_a_record_is_not_endless() -> None:
    assert len(_format("%s", "x" * 10_000_000)) < MAX_RECORD + 200


def test_the_failure_file_is_printable() -> None:
    text, code = describe_failure(DataError(f"first\nsecond \x1b[31m {'x' * 9999}"))
    assert code == 2
    assert len(text) == 1024
    assert all(line.isprintable() for line in text.split("\n"))
