"""The table of faults in docs/reliability.md, made from the marks on the tests.

``PYTHONPATH=tests pytest --collect-only -p fault_table --fault-table FILE`` puts it between the two comments of FILE.
A test of a family carries ``@pytest.mark.fault(family=53, outcome="200 or 400 within a second", inputs=100)``, where
``inputs`` is what the whole function tries; without it each of its parameters is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
FAMILIES: Mapping[int, str] = MappingProxyType(
    {
        1: "the train channel is missing, empty, or holds hidden files only",
        2: "the masks' channel is missing or empty",
        3: "pictures without masks, masks without pictures",
        4: "one name with two extensions",
        5: "odd file names: case, Unicode forms, line breaks, shell characters, 255 bytes",
        6: "a mask of another size than its picture",
        7: "pictures and masks that are empty, cut short or damaged",
        8: "content that does not fit the extension",
        9: "masks in other modes: colour, alpha, 16 bits, palette, interlaced",
        10: "labels that are no class",
        11: "masks without a pixel that counts",
        12: "unusual pictures: 16 bits, CMYK, one pixel, far too large, animated",
        13: "classes that are missing in a channel or in the label map",
        14: "one picture, or fewer than a batch",
        15: "the same picture in training and validation",
        16: "links, pipes, sockets, folders and forbidden files in a channel",
        17: "channels that are read-only, change, fail or stall while they are read",
        18: "manifests, RecordIO, misspelt channel names",
        19: "SageMaker's JSON files missing, empty, broken, very deep",
        20: "unknown hyperparameters",
        21: "hyperparameters missing, empty or in other spellings",
        22: "hyperparameters out of range",
        23: "hyperparameters that do not go together",
        24: "more memory asked for than there is",
        25: "hyperparameters with paths, commands, line breaks, a million characters",
        26: "a training that diverges",
        27: "label maps that are none",
        28: "a label map that leaves nothing to learn",
        29: "model archives missing, cut, damaged, or bombs",
        30: "archive members that lead out of the folder, links, devices",
        31: "damaged or foreign parameters",
        32: "hostile network descriptions",
        33: "hostile ONNX files",
        34: "files that are not those of the manifest",
        35: "code in the place of data",
        36: "the checkpoint folder missing, not writable, full, a file, with foreign files",
        37: "the newest checkpoint damaged or half-written",
        38: "all checkpoints damaged",
        39: "checkpoints of another job",
        40: "checkpoints with odd times",
        41: "a job that is finished already",
        42: "two jobs in one folder",
        43: "signals",
        44: "small limits: memory, files, processes, shared memory, processors",
        45: "a disk that is full, read-only or broken",
        46: "odd clocks, time zones, languages, users, no HOME",
        47: "a resource description that is missing or wrong; GPUs that cannot be used",
        48: "the container started with other arguments",
        49: "bodies that are empty or not framed as HTTP has it",
        50: "bodies at and above the size limit",
        51: "Content-Type and Content-Encoding that are wrong or hostile",
        52: "Accept that is missing, unknown or huge",
        53: "JPEG files that are cut, hostile or unusual",
        54: "PNG files that are cut, hostile or unusual",
        55: "other formats",
        56: "pictures of odd sizes",
        57: "addresses, paths and JSON in place of a picture",
        58: "unknown routes and methods, other protocols",
        59: "hostile headers",
        60: "clients that go away, are slow, or many",
        61: "requests while the server starts, stops or is in trouble",
        62: "many requests at a time, mixed with bad ones",
        63: "pictures and weights that give values that are not finite",
        64: "batch transform",
        65: "hosts that do not agree",
        66: "hosts that are lost",
    }
)


@dataclass
class _Family:
    tests: set[str] = field(default_factory=set)
    inputs: int = 0
    outcomes: list[str] = field(default_factory=list)


def collect_families(items: Iterable[pytest.Item]) -> dict[int, _Family]:
    """What the tests' marks say, by family."""
    found: dict[int, _Family] = {}
    for item in items:
        function = item.nodeid.split("[")[0]
        for mark in item.iter_markers("fault"):
            family = found.setdefault(mark.kwargs["family"], _Family())
            key = f"{function} {mark.kwargs['outcome']}"
            if key not in family.tests or "inputs" not in mark.kwargs:
                family.inputs += mark.kwargs.get("inputs", 1)
            family.tests.add(key)
            if mark.kwargs["outcome"] not in family.outcomes:
                family.outcomes.append(mark.kwargs["outcome"])
    return found


def format_families(found: Mapping[int, _Family]) -> str:
    """A Markdown table; families that no test has are in it, too."""
    lines = ["| | fault | inputs | what happens |", "|---|---|---|---|"]
    for number, title in FAMILIES.items():
        family = found.get(number, _Family())
        outcomes = "; ".join(outcome.replace("|", "\\|") for outcome in family.outcomes) or "not tested"
        lines.append(f"| {number} | {title} | {family.inputs} | {outcomes} |")
    total = sum(family.inputs for family in found.values())
    return "\n".join([*lines, "", f"{len(found)} of {len(FAMILIES)} families, {total} inputs."])


def replace_table(page: str, table: str) -> str:
    """The page with ``table`` between its two comments."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="page that is to get the table of faults")


def pytest_collection_finish(session: pytest.Session) -> None:
    page: Path | None = session.config.getoption("--fault-table")
    if page is not None:
        text = page.read_text(encoding="utf-8")
        page.write_text(replace_table(text, format_families(collect_families(session.items))), encoding="utf-8")
