"""int8 beside float32, both in our engine, of an FCN resnet-18 that is trained here for a few epochs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.inputs import name_source, prepare_channels, prepare_photo
from benchmarks.row import ResultRow, build_ratio_row
from benchmarks.stage_engine import start_engine
from benchmarks.variant import ROOT, compare, pick
from gluonseg.models.folder.manifest import FLOAT32, INT8, ONNX_FILES

_TRAINING = {
    "algorithm": "fcn", "backbone": "resnet-18", "use_pretrained_model": "false", "epochs": "4", "crop_size": "128",
    "base_size": "160", "prediction_size": "160", "mini_batch_size": "8", "learning_rate": "0.02",
}  # fmt: skip


def _run_gluonseg(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "gluonseg", *map(str, arguments)], cwd=ROOT, stdout=sys.stderr, check=True)


def _prepare_model(scratch: Path) -> Path:
    """Train and export; each writes its file last."""
    channels, job = prepare_channels(scratch), scratch / f"int8-job-{name_source()}"
    model = job / "model"
    if not (model / ONNX_FILES[FLOAT32]).is_file():
        names = json.loads((channels / "label_map" / "class_names.json").read_text(encoding="utf-8"))
        settings = {**_TRAINING, "num_classes": str(len(names))}
        _run_gluonseg("train", channels, "--output", job, *(f"--{name}={value}" for name, value in settings.items()))
    if not (model / ONNX_FILES[INT8]).is_file():
        _run_gluonseg("export", model, "--int8", "--channels", channels)
    return model


def measure(scratch: Path) -> list[ResultRow]:
    """Raises CalledProcessError when training fails, or when the export refuses int8."""
    model, photo = _prepare_model(scratch), prepare_photo(scratch)
    series = compare(
        {name: start_engine(name, model, photo, scratch / "mask.npy", count=8) for name in ("ours", "int8")}
    )
    note = "gluonseg export --int8 refuses a model that would lose more than 0.3 points of mIoU"
    return [build_ratio_row("int8", "our float32", "photos/s", *pick(series, "rate", "int8", "ours"), 1.8, note=note)]
