"""The report of whatever ``gluonseg report`` is given: a comparison, a run, a model folder or a model.tar.gz."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gluonseg.errors import DataError, UserError
from gluonseg.machine.limits import set_thread_count
from gluonseg.models.folder.archive import copy_members
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.folder.card import CARD_FILE, encode_card
from gluonseg.models.folder.manifest import BEST_FILE, LAST_FILE
from gluonseg.predict.scoring import score_model
from gluonseg.report.comparison import is_comparison
from gluonseg.report.hardware import describe_hardware
from gluonseg.report.one_model import CURVES_FILE, build_record, find_model, read_model_card
from gluonseg.report.page import PAGE_FILE, make_folder, write_comparison_report, write_model_report
from gluonseg.report.record import MASKS_FOLDER, RUN_FILE, write_record

_MEMBERS = (CARD_FILE, CURVES_FILE)
_ARCHIVE_SUFFIX = ".tar.gz"
_WEIGHTS = (BEST_FILE, LAST_FILE)


def write_source_report(source: Path, channels: Mapping[str, Path] | None = None, out: Path | None = None) -> Path:
    """Write the report of what ``source`` is into ``out``; returns the page's path.

    Without ``out`` it goes into ``source``, and for an archive into a folder of its name beside it. A model that was
    not scored is scored on the validation photos of ``channels`` when they are given.

    Raises:
        UserError: ``source`` is none of these, or something in it or in the channels cannot be used.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist; give a comparison's folder, a run, a model folder or a model.tar.gz")
    if is_comparison(source):
        if channels is not None:
            raise DataError("--channels is for a run or a model: a comparison knows its channels")
        return write_comparison_report(source, out)
    archive = _find_archive(source)
    with tempfile.TemporaryDirectory(prefix="gluonseg-report-") as scratch:
        folder = _unpack(archive, Path(scratch)) if archive else source
        beside = source.parent / f"{source.name.removesuffix(_ARCHIVE_SUFFIX)}_report"
        out = out or (source if source.is_dir() else beside)
        run, hardware = None, None
        if channels is not None and not (source / RUN_FILE).is_file():
            weights = archive or find_model(source)
            make_folder(out)
            hardware = describe_hardware()
            run = _score(weights, folder, channels, Path(scratch))
        return write_model_report(folder, channels, run=run, out=out, is_scored_anew=run is not None, hardware=hardware)


def _find_archive(source: Path) -> Path | None:
    """The archive that ``source`` is, or that it holds alone, as a training job's folder in S3 does."""
    if source.is_file():
        return source
    archives = sorted(source.glob(f"*{_ARCHIVE_SUFFIX}"))
    names = (CARD_FILE, RUN_FILE, *_WEIGHTS)
    has_model = any((source / name).is_file() for name in names) or (source / "model").is_dir()
    return None if has_model or len(archives) != 1 else archives[0]


def _unpack(archive: Path, scratch: Path) -> Path:
    """A folder with the card and the curves of an archive; of one without a card what its parameters tell."""
    folder = scratch / "model"
    folder.mkdir()
    names = copy_members(archive, _MEMBERS, folder)
    if any(Path(name).name == PAGE_FILE for name in names):
        raise UserError(f"{archive} is a job's output data, not its model; its report is {PAGE_FILE} inside: unpack it")
    if CARD_FILE not in names:
        (folder / CARD_FILE).write_text(encode_card(read_artifact(archive).card), encoding="utf-8")
    return folder


def _score(weights: Path, folder: Path, channels: Mapping[str, Path], scratch: Path) -> Path:
    """The folder of a record with the scores of a model; UserError where weights or validation photos are missing."""
    for name in ("validation", "validation_annotation"):
        if name not in channels:
            raise DataError(f"the channel {name} is missing; the model is scored on it")
    set_thread_count()
    run = scratch / "run"
    score = score_model(weights, channels, run / MASKS_FOLDER)
    model = find_model(folder)
    write_record(run, dataclasses.replace(build_record(read_model_card(model), model), score=score))
    return run
