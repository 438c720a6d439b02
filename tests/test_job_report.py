"""What a job leaves beside its model for people: its report, and curves for TensorBoard."""

from __future__ import annotations

import json
import re
import signal
import struct
import sys
from pathlib import Path

import pytest

from conftest import RunJob
from gluonseg.errors import HyperparameterError
from gluonseg.train.stop import Stop

LIMIT = 2_000_000
"""Bytes that all reports and curves of a job may have."""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _count_pictures(page: str) -> int:
    return page.count('src="data:image/webp;base64,')


def test_report_has_scores_confusion_and_photos(run_tiny: RunJob, tmp_path: Path) -> None:
    out = tmp_path / "output" / "data"
    outcome = run_tiny({"epochs": "1"}, output_folder=out)
    assert outcome.confusion is not None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"reaches mIoU {outcome.confusion.compute_miou():.3f}." in page
    assert "Confusion matrix" in page
    assert "IoU by class" in page
    # The worst, the median and the best photo of three, each as it is, with its mask and with the model's.
    assert all(f"{word} of FCN resnet-18" in page for word in ("worst", "median", "best"))
    assert _count_pictures(page) == 9 + 6
    assert "no mask" not in page
    assert "Boundary F" not in page  # not measured here: no column of dashes
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (model,) = report["models"]
    assert model["confusion"] == outcome.confusion.matrix.tolist()
    assert model["metrics"]["train_seconds"]["mean"] > 0
    assert model["metrics"]["latency_ms"]["mean"] > 0
    assert "load before" in page  # of the hardware, as it was before the training
    assert not list((tmp_path / "model").glob("report.*"))
    assert _size(out) < LIMIT


def test_stopped_job_has_a_report_without_whole_image_scores(run_tiny: RunJob, tmp_path: Path) -> None:
    out, stop = tmp_path / "output" / "data", Stop()
    out.mkdir(parents=True)
    (out / "report.html").write_text("of an earlier job", encoding="utf-8")
    request = lambda _done, _total: stop.request(signal.SIGTERM)  # noqa: E731
    outcome = run_tiny({"epochs": "1"}, output_folder=out, stop=stop, evaluation_progress=request)
    assert outcome.confusion is None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "on centre crops, best epoch" in page
    assert "on whole validation photos" not in page
    assert _count_pictures(page) == 0


def test_refused_job_leaves_the_earlier_report(run_tiny: RunJob, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of an earlier job", encoding="utf-8")
    with pytest.raises(HyperparameterError):
        run_tiny({"epochs": "0"}, output_folder=tmp_path)
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    "step",
    [
        "train.job_report.write_model_report",
        "train.job_report._encode_mask",
    ],
)
def test_report_that_fails_does_not_fail_the_job(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    def fail(*_arguments: object, **_settings: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(f"gluonseg.{step}", fail)
    outcome = run_tiny({"epochs": "1"}, output_folder=tmp_path / "data")
    assert outcome.confusion is not None
    assert "whole_image" in outcome.card.metrics
    assert "No space left on device" in caplog.text
    # Without what is shown of the photos there is still what the card tells.
    assert (tmp_path / "data" / "report.html").is_file() == step.endswith("_encode_mask")


# TensorBoard.


def _read_events(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard reads them: records of length, its checksum, an event, its checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[str, list[tuple[int, float]]] = {}
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        content = content[16 + length :]
    return found


def test_curves_for_tensorboard(run_tiny: RunJob, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "data" / "tensorboard"
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1.earlier").write_bytes(b"of an earlier job")
    outcome = run_tiny({"tensorboard": "True"}, output_folder=tmp_path / "data")
    (file,) = folder.iterdir()
    curves = _read_events(file)
    for tag, name in (("train/loss", "train_loss"), ("validation/mIOU", "miou")):
        assert dict(curves[tag]) == pytest.approx({result.epoch: getattr(result, name) for result in outcome.results})
    assert {tag for tag in curves if tag.startswith("validation_IoU/")} <= {
        f"validation_IoU/{name}" for name in outcome.card.class_names
    }
    assert len(curves["train/learning_rate"]) == 2


def test_without_the_extra_the_job_is_refused(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(HyperparameterError, match=re.escape('pip install "gluonseg[tensorboard]"')):
        run_tiny({"tensorboard": "True"}, output_folder=tmp_path / "data")
    assert not (tmp_path / "model").exists()
