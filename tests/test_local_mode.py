"""The programs of local_mode/ without an SDK and without Docker: mistakes at the start, scores, costs."""

from __future__ import annotations

import importlib
import io
import json
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repository import ROOT

Load = Callable[[str], Any]


@pytest.fixture
def load() -> Iterator[Load]:
    """Imports a module of local_mode/; the programs find each other in their folder."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "local_mode")
        yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == ROOT / "local_mode":
            del sys.modules[name]


@pytest.fixture
def data(drawn_channels: Mapping[str, Path]) -> Path:
    return drawn_channels["train"].parent


# --- mistakes, before anything is started


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--set", "epochs"], 2, "'epochs' is not NAME=VALUE"),
        (["--set", "optimizer=sdg"], 2, "train_deploy: optimizer must be one of"),
        (["--tune", "momentum"], 2, "train_deploy: --tune is for AWS"),
        (["--async"], 2, "train_deploy: --async is for AWS"),
        (["--data", "{empty}"], "there is no .jpg photo in {empty}/validation", ""),
        (["--data", "{mapped}"], "{mapped} does not tell how many classes there are: --set num_classes=N", ""),
    ],
)
def test_a_wrong_command_line_ends_with_what_to_change(
    arguments: list[str], code: int | str, told: str, load: Load, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folders = {"empty": str(tmp_path / "empty"), "mapped": str(tmp_path / "mapped")}
    (tmp_path / "mapped" / "label_map").mkdir(parents=True)
    for name in ("train", "validation", "train_annotation"):
        (tmp_path / "mapped" / name).symlink_to(data / name)
    given = ["--data", str(data), *(text.format(**folders) for text in arguments)]
    monkeypatch.setattr(sys, "argv", ["train_deploy", *given])
    sdk = SimpleNamespace(open_session=lambda *_: nullcontext(SimpleNamespace(local_mode=True)))
    with pytest.raises(SystemExit) as caught:
        load("example").run(sdk, "", tmp_path / "out")
    if isinstance(code, str):
        assert code.format(**folders) in str(caught.value)
    else:
        assert (caught.value.code, told in capsys.readouterr().err) == (code, True)


@pytest.mark.parametrize("text", ["folder", "folder/"])
def test_a_model_folder_may_be_here_or_in_s3(
    text: str, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (SimpleNamespace(local_mode=is_local) for is_local in (True, False))
    monkeypatch.chdir(tmp_path)
    address = load("example").parse_address(text)
    assert load("job").describe_model(here, address) == address == (tmp_path / "folder").as_uri()
    address = load("example").parse_address(f"s3://bucket/{text}")
    assert load("job").describe_model(there, address)["S3DataSource"]["S3Uri"] == "s3://bucket/folder/"


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        (("docker", "version"), "Docker does not answer"),
        (("docker", "compose"), "this SDK finds no Docker Compose that it knows: apt-get install docker-compose"),
        (("docker", "image"), "there is no image 'gluonseg' on this machine: make image"),
        (("port",), r"port \d+ cannot be had \(Address already in use\)"),
    ],
)
def test_a_machine_that_is_not_ready_is_told_apart(
    failing: tuple[str, ...], told: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = load("machine")
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    monkeypatch.setattr(machine, "_ask", lambda *command: None if command[:2] == failing else "version v2.1")
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        with pytest.raises(SystemExit, match=told):
            machine.check_machine("gluonseg", busy.getsockname()[1])


# --- scores and costs


def encode_png(mask: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(mask)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_perfect_endpoint(load: Load, data: Path, tmp_path: Path) -> None:
    def answer_truth(photo: Path, accept: str) -> bytes:
        """Right, but takes all that is not scored for background."""
        assert accept == "image/png"
        label = np.asarray(Image.open(photo.parent.with_name("validation_annotation") / f"{photo.stem}.png"))
        return encode_png(np.where(label == 255, 0, label).astype(np.uint8))

    score = load("endpoint_score")
    truth = score.read_truth(data)
    found = score.score_endpoint(answer_truth, truth, tmp_path / "masks")
    assert found.confusion.compute_miou() == 1.0
    assert found.confusion.matrix.sum() == sum(int((truth.read(pair) != 255).sum()) for pair in truth.pairs)
    assert found.latency_ms > 0
    assert {path.stem for path in (tmp_path / "masks").iterdir()} == {pair.name for pair in truth.pairs}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b'{"error": "too large"}', 'the endpoint refused: {"error": "too large"}'),
        (encode_png(np.zeros((2, 3), np.uint8)), "differ in shape"),
    ],
)
def test_an_answer_that_is_no_mask_of_the_photo(
    answer: bytes, told: str, load: Load, data: Path, tmp_path: Path
) -> None:
    score = load("endpoint_score")
    with pytest.raises((RuntimeError, ValueError), match=re.escape(told)):
        score.score_endpoint(lambda photo, accept: answer, score.read_truth(data), tmp_path)


def test_costs_are_measured_seconds_times_the_price(load: Load, tmp_path: Path) -> None:
    price = load("price")
    path = tmp_path / "prices.json"
    known = {"date": "2001-02", "region": "nowhere-1", "source": "made up", "page": "https://example.com"}
    path.write_text(json.dumps({**known, "currency": "USD", "an_hour": {"ml.one": 1, "ml.forty": 40.0}}))
    models = {"FCN resnet-18": price.Seconds(90.0, 0.036), "PSP resnet-18": price.Seconds(3600.0, 3.6)}
    lines = price.format_costs(models, path).splitlines()
    assert [line.split() for line in lines if line.startswith("ml.")] == [
        ["ml.one", "1.000", "0.0250", "0.0100", "1.0000", "1.0000"],
        ["ml.forty", "40.000", "1.0000", "0.4000", "40.0000", "40.0000"],
    ]
    assert "USD       an hour  FCN resnet-18, 90 s  1,000 photos  PSP resnet-18, 3600 s  1,000 photos" in lines
    assert "Prices: nowhere-1, 2001-02, made up: https://example.com" in lines
    assert any("How fast another machine is was not" in line for line in lines)
