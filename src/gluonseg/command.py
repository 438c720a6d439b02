"""What the ``gluonseg`` commands do; each takes its parsed arguments and returns the exit code."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from gluonseg.data.channel import find_channels
from gluonseg.data.decode import read_bytes
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError, UserError
from gluonseg.hyperparameters import OTHER_SPELLINGS, get_specs
from gluonseg.labels import default_label_map, parse_label_map
from gluonseg.machine.limits import set_thread_count
from gluonseg.metrics import CSAIL, GLUONSEG, KERAS, describe_confusion
from gluonseg.models.folder.card import ModelCard
from gluonseg.text import escape_line, join_names


class _ProgressBar:
    """Shows "done, of all" as a bar on standard error; silent when that is not a terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        self._bar = self._bar or tqdm(total=total, desc=self._title, disable=None, leave=False, file=sys.stderr)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()


def run_check(arguments: argparse.Namespace) -> int:
    from gluonseg.data.check.doctor import check_channels, format_report
    from gluonseg.data.label_channel import read_label_maps

    channels = find_channels(arguments.channels)
    report = check_channels(
        channels,
        num_classes=arguments.num_classes,
        label_maps=read_label_maps(channels.get("label_map"), arguments.ignore_label),
        ignore_label=arguments.ignore_label,
        crop_size=arguments.crop_size,
        max_pixels=arguments.max_pixels,
        photo_range=arguments.photo_range,
        progress=_ProgressBar("checking"),
    )
    print(format_report(report))
    return 2 if report.errors else 0


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that nothing half-written is left."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@_ending_cleanly()
def run_prepare(arguments: argparse.Namespace) -> int:
    from gluonseg.data.prepare.core import Split, format_report, write_data_set
    from gluonseg.data.prepare.kinds import FINDERS

    options = {name: getattr(arguments, name) for name in arguments.options}
    find = partial(FINDERS[arguments.kind], arguments.source, **options)
    split = Split(arguments.split, arguments.seed, arguments.validation_share)
    progress, photo_range = _ProgressBar("preparing"), arguments.photo_range
    report = write_data_set(find, arguments.source, arguments.out, split, progress, photo_range=photo_range)
    print(format_report(report))
    return 0


@_ending_cleanly()
def run_prepare_pets(arguments: argparse.Namespace) -> int:
    from gluonseg.data.prepare.core import format_report
    from gluonseg.data.prepare.pets import prepare_oxford_pets
    from gluonseg.data.prepare.pets_archive import download_oxford_pets

    source = download_oxford_pets(arguments.source) if arguments.download else arguments.source
    report = prepare_oxford_pets(
        source,
        arguments.out,
        classes=arguments.classes,
        split=arguments.split,
        seed=arguments.seed,
        validation_share=arguments.validation_share,
        progress=_ProgressBar("preparing"),
    )
    print(format_report(report))
    return 0


@_ending_cleanly()
def run_prepare_synthetic(arguments: argparse.Namespace) -> int:
    from gluonseg.data.prepare.core import format_report
    from gluonseg.data.prepare.synthetic import prepare_synthetic

    report = prepare_synthetic(arguments.out, count=arguments.count, size=arguments.size, seed=arguments.seed)
    print(format_report(report))
    return 0


def _get_hyperparameters(arguments: argparse.Namespace) -> dict[str, str]:
    """The hyperparameters that were given."""
    names = (*get_specs(), *OTHER_SPELLINGS)
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


def run_train(arguments: argparse.Namespace) -> int:
    from gluonseg.sagemaker.contract import check_writable
    from gluonseg.sagemaker.job import train_channels
    from gluonseg.sagemaker.log import configure_logging
    from gluonseg.sagemaker.stop_signal import stopping_job
    from gluonseg.train.stop import Stop, Stopped

    if arguments.output.resolve() == arguments.channels.resolve():
        # The new model folder would be the channel "model" of the next training.
        raise DataError(f"--output is the folder of the channels, {arguments.channels}; choose another folder")
    for name in ("model", "output/data"):
        check_writable(arguments.output / name)
    configure_logging()
    stop = Stop()
    with suppress(Stopped), stopping_job(stop):
        channels = find_channels(arguments.channels)
        hyperparameters, checkpoints = _get_hyperparameters(arguments), arguments.checkpoints
        train_channels(hyperparameters, channels, arguments.output, stop=stop, checkpoints=checkpoints)
    if stop.signal is not None:
        return 128 + stop.signal
    print(f"the model is in {arguments.output / 'model'}")
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    from gluonseg.compare.child import LOG_FILE
    from gluonseg.compare.plan import VARIED, build_comparison
    from gluonseg.compare.progress import Display
    from gluonseg.compare.ranking import format_ranking
    from gluonseg.compare.runner import Interrupted, run_comparison
    from gluonseg.report.page import PAGE_FILE
    from gluonseg.report.record import FAILED

    if importlib.util.find_spec("mxnet") is None:  # else its runs would fail, one after the other
        raise ModuleNotFoundError(name="mxnet")
    lists = {option: getattr(arguments, option) for option in VARIED}
    channels = find_channels(arguments.channels)
    plan = build_comparison(arguments.channels, channels, arguments.out, lists, _get_hyperparameters(arguments))
    try:
        records = run_comparison(plan, Display(sys.stderr), _ProgressBar("checking"))
    except Interrupted as error:
        print("gluonseg: stopped; the same command goes on after the last epoch that is finished", file=sys.stderr)
        return 128 + error.number
    print(f"{format_ranking(arguments.out)}\n\nthe report is in {arguments.out / PAGE_FILE}")
    failed = [record for record in records if record.status == FAILED]
    for record in failed:
        log = plan.find_run_folder(record) / LOG_FILE
        print(f"gluonseg: {record.model_name} seed {record.seed} failed: {record.error}; see {log}", file=sys.stderr)
    if failed:
        count = f"{len(failed)} of {len(records)} runs failed"
        print(f"gluonseg: {count}; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def run_report(arguments: argparse.Namespace) -> int:
    from gluonseg.report.source import write_source_report

    channels = find_channels(arguments.channels) if arguments.channels else None
    print(f"the report is in {write_source_report(arguments.source, channels, arguments.out)}")
    return 0


def _load(arguments: argparse.Namespace, scales: str | None, flip: bool | None) -> Any:
    set_thread_count()
    from gluonseg.predict.predictor import load_predictor
    from gluonseg.predict.view import parse_scales

    return load_predictor(
        arguments.model,
        precision=arguments.precision,
        scales=None if scales is None else parse_scales(scales),
        flip=flip,
        max_network_pixels=arguments.max_network_pixels,
    )


def run_predict(arguments: argparse.Namespace) -> int:
    from gluonseg.predict.batch import find_images, iter_written
    from gluonseg.predict.sheet import PAGE_FILE

    if arguments.palette and not (arguments.overlay or arguments.html):
        raise UserError("--palette colours the overlays, and none are written; add --overlay or --html")
    images, output, max_pixels = find_images(arguments.images), arguments.output, arguments.max_pixels
    predictor = _load(arguments, arguments.scales, arguments.flip)
    bar, problems = _ProgressBar("predicting"), []
    options = {"overlays": arguments.overlay, "palette": arguments.palette, "shares": arguments.shares}
    outcomes = iter_written(predictor, images, output, max_pixels=max_pixels, sheet=arguments.html, **options)
    for done, outcome in enumerate(outcomes, 1):
        if not arguments.shares:  # the bar would stand between their lines
            bar(done, len(images))
        if outcome.problem:
            problems.append(outcome.problem)
        elif arguments.shares:
            print(format_shares(outcome.image, outcome.shares))
    print(f"wrote {len(images) - len(problems)} masks to {output}")
    if arguments.html:
        print(f"the page is {output / PAGE_FILE}")
    for problem in problems:
        print(f"gluonseg: left out: {escape_line(problem)}", file=sys.stderr)
    return 2 if problems else 0


def format_shares(image: Path, shares: Mapping[str, float]) -> str:
    """The classes that take more than a thousandth of a picture, as CSAIL's test script prints them."""
    lines = [f"  {name}: {100 * share:.2f}%" for name, share in shares.items() if share > 0.001]
    return "\n".join([escape_line(f"Predictions in [{image}]:"), *lines])


def run_evaluate(arguments: argparse.Namespace) -> int:
    from gluonseg.data.check.folders import suggest_names
    from gluonseg.data.dataset import Dataset

    _check_protocol(arguments)
    for folder in (arguments.images, arguments.masks):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder")
    matching = match_pairs(arguments.images, arguments.masks)
    if not matching.pairs:
        fix, _ = suggest_names(matching.images_without_mask, matching.masks_without_image)
        raise DataError(f"no picture in {arguments.images} has a mask of its name in {arguments.masks}. {fix}")
    left_out = {
        "without mask": matching.images_without_mask,
        "without picture": matching.masks_without_image,
        "two files of one name": matching.ambiguous,
    }
    for title, names in left_out.items():
        if names:
            print(f"gluonseg: left out, {title}: {escape_line(join_names(names))}", file=sys.stderr)
    # The views of the model's card are not those of the other protocols.
    views = (arguments.scales, arguments.flip) if arguments.protocol == GLUONSEG else ("1", False)
    predictor = _load(arguments, *views)
    label_map = default_label_map(arguments.ignore_label)
    if arguments.label_map:
        path = arguments.label_map
        label_map = parse_label_map(read_bytes(path), str(path), arguments.ignore_label)
    options = {"max_pixels": arguments.max_pixels, "photo_range": predictor.card.photo_range, "cache_bytes": 0}
    dataset = Dataset(matching.pairs, label_map, **options)
    found, text = _evaluate(arguments, predictor, dataset)
    print(json.dumps(found, indent=2) if arguments.json else text)
    return 0


def _check_protocol(arguments: argparse.Namespace) -> None:
    """Raise UserError when an option does not go with the protocol."""
    protocol = arguments.protocol
    if arguments.single_scale and protocol != CSAIL:
        raise UserError(f"--single_scale belongs to --protocol csail, not to {protocol}; leave it out")
    if protocol != GLUONSEG and (arguments.scales is not None or arguments.flip):
        option = "--flip" if arguments.scales is None else "--scales"
        raise UserError(f"{option} does not go with --protocol {protocol}, which has its own views; leave it out")


def _evaluate(arguments: argparse.Namespace, predictor: Any, dataset: Any) -> tuple[dict[str, Any], str]:
    """The scores by the chosen protocol, and how they are printed."""
    from gluonseg.predict import protocol
    from gluonseg.predict.evaluation import evaluate_dataset

    card: ModelCard = predictor.card
    bar = _ProgressBar("evaluating")
    if arguments.protocol == CSAIL:
        sides = (protocol.SINGLE_SHORT_SIDE,) if arguments.single_scale else protocol.SHORT_SIDES
        found = protocol.evaluate_csail(predictor, dataset, sides, bar)
    elif arguments.protocol == KERAS:
        found = protocol.evaluate_keras(predictor, dataset, bar)
    else:
        confusion = evaluate_dataset(predictor, dataset, card.num_classes, bar)
        found = {"images": len(dataset), **describe_confusion(confusion, card.class_names)}
        return found, format_scores(found)
    return found, protocol.format_row(found)


def format_scores(found: Mapping[str, Any]) -> str:
    """Scores as a small table: IoU by class, then the means."""
    rows: list[tuple[str, float | None]] = [*found["class_IoU"].items()]
    rows += [
        ("mIoU, classes that occur", found["mIoU"]),
        ("mIOU as the built-in", found["mIOU_builtin"]),
        ("pixel accuracy", found["pixel_accuracy"]),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {'   -' if value is None else f'{value:.4f}'}" for name, value in rows]
    return "\n".join([f"{found['images']} images, whole, each at its own size", *lines])


def run_serve(arguments: argparse.Namespace) -> int:
    from gluonseg.serve.server import run_server
    from gluonseg.serve.settings import read_settings

    given = {"model_path": arguments.model, "host": arguments.host, "port": arguments.port}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return run_server(dataclasses.replace(read_settings(os.environ), **changes))


def run_app(arguments: argparse.Namespace) -> int:
    from gluonseg.app.run import run_app
    from gluonseg.serve.settings import read_settings

    changes = {"host": arguments.host, **({"port": arguments.port} if arguments.port else {})}
    settings = dataclasses.replace(read_settings(os.environ), **changes)
    return run_app(arguments.models, settings, examples=arguments.examples, per_minute=arguments.rate)


def run_export(arguments: argparse.Namespace) -> int:
    set_thread_count()
    from gluonseg.export.float32 import export_model

    if arguments.int8 and arguments.channels is None:
        raise UserError("--int8 needs --channels: it is calibrated on training photos and scored on validation photos")
    if arguments.output is None and not arguments.model.is_dir():
        raise UserError(f"{arguments.model} is no folder; name one for the file with --output")
    print(f"wrote {export_model(arguments.model, arguments.output)}")
    if arguments.int8:
        from gluonseg.export.int8 import export_model_int8

        channels = find_channels(arguments.channels)
        print(f"wrote {export_model_int8(arguments.model, channels, arguments.output, _ProgressBar)}")
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    source, backbone = arguments.source, arguments.backbone
    if not arguments.decoder and (not backbone or arguments.output_stride is not None):
        missing = "--decoder" if backbone else "--decoder or --backbone"
        raise UserError(
            f"{missing} is missing: name with --decoder the decoder that was trained with the encoder {source}, or "
            "with --backbone (without --output_stride) what backbone it is, for its weights alone"
        )
    from gluonseg.models.convert import convert_backbone
    from gluonseg.models.csail_weights import check_model_folder, name_classes, read_checkpoint, write_model
    from gluonseg.models.params import write_params

    if arguments.decoder:
        check_model_folder(arguments.output)
        card, arrays = read_checkpoint(source, arguments.decoder, backbone, arguments.output_stride)
        card = name_classes(card, arguments.class_names) if arguments.class_names else card
        write_model(card, arrays, arguments.output)
        print(f"{card.describe()}; gluonseg export {arguments.output} writes its ONNX file")
    else:
        write_params(convert_backbone(source, backbone), arguments.output)
    print(f"wrote {arguments.output}")
    return 0


def run_doctor(_arguments: argparse.Namespace) -> int:
    from gluonseg.machine.limits import count_usable_cores
    from gluonseg.train.writer import NOT_INSTALLED, describe_versions

    versions, devices = describe_versions(), ["cpu"]
    if versions["mxnet"] != NOT_INSTALLED:
        from gluonseg.machine.device import find_devices

        devices = [str(device) for device in find_devices()]
    rows = {**versions, "cores": count_usable_cores(), "devices": ", ".join(devices)}
    for name, value in rows.items():
        print(f"{name:<10} {value}")
    return 0


def run_hyperparameters(_arguments: argparse.Namespace) -> int:
    from gluonseg.report.hyperparameter_table import format_table

    print(format_table())
    return 0
