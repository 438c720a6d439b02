"""The parts of local_mode/compare.py that need neither an SDK nor Docker: scores, costs, failed runs."""

from __future__ import annotations

import datetime
import importlib
import io
import json
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gluonseg.compare.plan import Comparison, Run, build_comparison
from gluonseg.metrics import Confusion
from gluonseg.report.record import FAILED, FINISHED, RunRecord, read_record
from repository import ROOT

CLASS_NAMES = ("background", "disc", "box", "triangle")
LOG = "algo-1-x | [.. INFO 1] #quality_metric. host: algo-1-x, epoch: {}, validation mIOU: {} .\n"


@pytest.fixture(scope="module", autouse=True)
def local_mode() -> Iterator[None]:
    """The programs find each other in their folder."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "local_mode")
        yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == ROOT / "local_mode":
            del sys.modules[name]


def load(name: str) -> Any:
    """A module of local_mode/."""
    return importlib.import_module(name)


def test_prices_are_data_with_their_date() -> None:
    prices = json.loads(load("price").PRICES_FILE.read_text("utf-8"))
    assert datetime.date.fromisoformat(f"{prices['date']}-01") < datetime.date(2026, 1, 1)
    assert "remembered" in prices["source"]
    assert all(name.startswith("ml.") and price > 0 for name, price in prices["an_hour"].items())


def test_costs_are_measured_seconds_times_the_price(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("log", "error", "told"),
    [
        ("a | [.. ERROR 1] ClientError: bad data \x1b[0m\na | at the end\n", "code: 1", "bad data"),
        ("a |\n", "Failed to run: ['docker-compose', 'up'], Process exited with code: 137", "it was killed"),
        ("", "Process exited with code: 3", "the container ended with exit code 3"),
        ("", "a.jpg: the endpoint\nrefused", "a.jpg: the endpoint refused"),
        ("", "", "RuntimeError"),
    ],
)
def test_why_a_run_failed(log: str, error: str, told: str) -> None:
    found = load("job_run").find_failure(log, RuntimeError(error))
    assert told in found
    assert found.isprintable()


def encode_png(mask: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(mask)).save(buffer, "PNG")
    return buffer.getvalue()


def answer_truth(photo: Path, accept: str) -> bytes:
    """An endpoint that knows the truth, but takes all that is not scored for background."""
    assert accept == "image/png"
    label = np.asarray(Image.open(photo.parent.with_name("validation_annotation") / f"{photo.stem}.png"))
    return encode_png(np.where(label == 255, 0, label).astype(np.uint8))


@pytest.fixture
def data(drawn_channels: Mapping[str, Path]) -> Path:
    return drawn_channels["train"].parent


SIZE = {"parameters": 7, "gmacs": 0.5}
REPORT = {"models": [{"metrics": {key: {"mean": value} for key, value in SIZE.items()}}]}


def test_a_perfect_endpoint(data: Path, tmp_path: Path) -> None:
    score = load("endpoint_score")
    truth = score.read_truth(data, CLASS_NAMES)
    found = score.score_endpoint(answer_truth, truth, tmp_path / "masks", SIZE)
    assert [photo.miou for photo in found.photos] == [1.0] * len(truth.pairs) == [1.0] * 3
    confusion = Confusion(np.array(found.confusion))
    assert confusion.matrix.sum() == sum(int((truth.read(pair) != 255).sum()) for pair in truth.pairs)
    assert {path.stem for path in (tmp_path / "masks").iterdir()} == {pair.name for pair in truth.pairs}
    assert (found.parameters, found.gmacs, confusion.compute_miou()) == (7, 0.5, 1.0)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b'{"error": "too large"}', 'the endpoint refused: {"error": "too large"}'),
        (encode_png(np.zeros((2, 3), np.uint8)), "differ in shape"),
    ],
)
def test_an_answer_that_is_none(answer: bytes, told: str, data: Path, tmp_path: Path) -> None:
    score = load("endpoint_score")
    truth = score.read_truth(data, CLASS_NAMES)
    with pytest.raises(RuntimeError, match=re.escape(told)) as caught:
        score.score_endpoint(lambda photo, accept: answer, truth, tmp_path, SIZE)
    assert str(caught.value).startswith(truth.pairs[0].image.name)


class Sdk:
    """Stands in for an SDK: its jobs leave what real ones do, but for ``fails``."""

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.trained: list[str] = []

    def train(self, _session: object, job: Any) -> str:
        algorithm = str(job.hyperparameters["algorithm"])
        self.trained.append(algorithm)
        sys.stdout.write(LOG.format(0, 0.5))
        if algorithm == self.fails:
            raise RuntimeError("Process exited with code: 137")
        output = load("job").get_path(job.output)
        output.mkdir(parents=True)
        report = json.dumps(REPORT).encode()
        files = {"model.tar.gz": ("model_card.json", b"{}"), "output.tar.gz": ("data/report.json", report)}
        for name, (member, content) in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            with tarfile.open(output / name, "w:gz") as tar:
                tar.addfile(info, io.BytesIO(content))
        return algorithm

    @contextmanager
    def deployed_endpoint(self, _session: object, _job: object, _model: str) -> Iterator[Any]:
        yield answer_truth


def build_plan(data: Path, folder: Path) -> Comparison:
    lists = {"algorithms": "fcn,psp,deeplab", "backbones": "resnet-18", "seeds": "0"}
    return build_comparison(data, {}, folder, lists, {"num_classes": "4", "num_training_samples": "9"})


def run_all(data: Path, tmp_path: Path, sdk: Sdk) -> list[RunRecord]:
    scratch = tmp_path / f"scratch{sdk.fails}"
    session = SimpleNamespace(config={"local": {"container_root": str(scratch)}})
    job = load("job").Job("gluonseg", {"num_classes": 4}, {}, "")
    truth = load("endpoint_score").read_truth(data, CLASS_NAMES)
    run = load("job_run")
    records: list[RunRecord] = run.run_all(run.Comparer(sdk, session, build_plan(data, tmp_path / "out"), truth, job))
    return records


def test_a_job_that_fails_does_not_sink_the_others(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Sdk("psp")
    records = run_all(data, tmp_path, first)
    assert [record.status for record in records] == [FINISHED, FAILED, FINISHED]
    assert "== psp resnet-18 seed 0 failed: the container ended with exit code 137" in capsys.readouterr().out
    run = build_plan(data, tmp_path / "out").find_run_folder(Run("psp", "resnet-18", 0))
    kept = read_record(run)
    assert kept is not None
    assert kept.error.startswith("the container ended with exit code 137: it was killed")
    assert (run / "log.txt").read_text() == LOG.format(0, 0.5)

    second = Sdk("")
    assert [record.status for record in run_all(data, tmp_path, second)] == [FINISHED] * 3
    assert (first.trained, second.trained) == (["fcn", "psp", "deeplab"], ["psp"])


def test_this_python_has_no_sdk() -> None:
    with pytest.raises(SystemExit, match="no SageMaker SDK: make sdk-v2"):
        load("compare").find_sdk()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--set", "algorithm=psp"], 2, "it has an option of its own, --algorithms"),
        (["--set", "crop_size=40", "seed=3"], 2, "it has an option of its own, --seeds"),
        (["--seeds", "1,1"], 2, "--seeds has 1 twice"),
    ],
)
def test_options_are_refused_up_front(
    arguments: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", "--output", str(tmp_path / "out"), *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        load("compare").main()
    assert caught.value.code == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
