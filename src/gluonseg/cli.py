"""The ``gluonseg`` command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gluonseg import __version__
from gluonseg.cores import set_thread_count
from gluonseg.data.channel import NEEDED_CHANNELS
from gluonseg.data.decode import read_bytes
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError, HyperparameterError, UserError, join_names
from gluonseg.hyperparameters import describe_unknown, get_specs
from gluonseg.labels import default_label_map, parse_label_map
from gluonseg.metrics import describe_confusion
from gluonseg.models.card import ModelCard
from gluonseg.parameter import format_value, parse_value

Handler = Callable[[argparse.Namespace], int]


def _bar(total: int, title: str) -> Any:
    """A progress bar on standard error; silent when that is not a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=title, disable=None, leave=False, file=sys.stderr)


class _CountingBar:
    """Turns "done, of all" into a progress bar that appears when the number of all is known."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        self._bar = self._bar or _bar(total, self._title)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()


def find_channels(folder: Path) -> dict[str, Path]:
    """The channels of a prepared folder: its sub-folders; one with a misspelt name is told of as such."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that holds {', '.join(NEEDED_CHANNELS)}")
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}


def _check(arguments: argparse.Namespace) -> int:
    from gluonseg.data.check import check_channels, format_report
    from gluonseg.data.label_channel import read_label_maps

    channels = find_channels(arguments.channels)
    report = check_channels(
        channels,
        num_classes=arguments.num_classes,
        label_maps=read_label_maps(channels.get("label_map"), arguments.ignore_label),
        ignore_label=arguments.ignore_label,
        crop_size=arguments.crop_size,
        max_pixels=arguments.max_pixels,
        progress=_CountingBar("checking"),
    )
    print(format_report(report))
    return 2 if report.errors else 0


def _prepare_pets(arguments: argparse.Namespace) -> int:
    from gluonseg.data.channel import format_prepare_report
    from gluonseg.data.oxford_archive import download_oxford_pets
    from gluonseg.data.oxford_pets import prepare_oxford_pets

    source = arguments.source
    if arguments.download:
        source = download_oxford_pets(source)
    report = prepare_oxford_pets(
        source,
        arguments.out,
        classes=arguments.classes,
        split=arguments.split,
        seed=arguments.seed,
        validation_share=arguments.validation_share,
        progress=_CountingBar("preparing"),
    )
    print(format_prepare_report(report))
    return 0


def _prepare_synthetic(arguments: argparse.Namespace) -> int:
    from gluonseg.data.channel import format_prepare_report
    from gluonseg.data.synthetic import prepare_synthetic

    report = prepare_synthetic(arguments.out, count=arguments.count, size=arguments.size, seed=arguments.seed)
    print(format_prepare_report(report))
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from gluonseg.sagemaker.job import train_channels
    from gluonseg.sagemaker.log import configure_logging

    given = {name: getattr(arguments, name) for name in get_specs() if getattr(arguments, name) is not None}
    if arguments.output.resolve() == arguments.channels.resolve():
        # The new model folder would be the channel "model" of the next training.
        raise DataError(f"--output is the folder of the channels, {arguments.channels}; choose another folder")
    configure_logging()
    train_channels(given, find_channels(arguments.channels), arguments.output)
    print(f"the model is in {arguments.output / 'model'}")
    return 0


def _load(model: Path) -> Any:
    set_thread_count()
    from gluonseg.predict.predictor import load_predictor

    return load_predictor(model)


def _predict(arguments: argparse.Namespace) -> int:
    from gluonseg.predict.batch import find_images, iter_predictions

    images = find_images(arguments.images)
    predictor = _load(arguments.model)
    problems = []
    with _bar(len(images), "predicting") as bar:
        outcomes = iter_predictions(
            predictor, images, arguments.output, overlays=arguments.overlay, max_pixels=arguments.max_pixels
        )
        for outcome in outcomes:
            bar.update(1)
            if outcome.problem:
                problems.append(outcome.problem)
    print(f"wrote {len(images) - len(problems)} masks to {arguments.output}")
    for problem in problems:
        print(f"gluonseg: left out: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from gluonseg.data.dataset import Dataset
    from gluonseg.predict.evaluation import evaluate_dataset

    matching = match_pairs(_folder(arguments.images), _folder(arguments.masks))
    if not matching.pairs:
        raise DataError(f"no picture in {arguments.images} has a mask of its name in {arguments.masks}")
    left_out = {
        "without mask": matching.images_without_mask,
        "without picture": matching.masks_without_image,
        "two files of one name": matching.ambiguous,
    }
    for title, names in left_out.items():
        if names:
            print(f"gluonseg: left out, {title}: {join_names(names)}", file=sys.stderr)
    predictor = _load(arguments.model)
    card: ModelCard = predictor.card
    label_map = default_label_map(arguments.ignore_label)
    if arguments.label_map:
        path = arguments.label_map
        label_map = parse_label_map(read_bytes(path), str(path), arguments.ignore_label)
    dataset = Dataset(matching.pairs, label_map, max_pixels=arguments.max_pixels, cache_bytes=0)
    confusion = evaluate_dataset(predictor, dataset, card.num_classes, _CountingBar("evaluating"))
    found = {"images": len(dataset), **describe_confusion(confusion, card.class_names)}
    print(json.dumps(found, indent=2) if arguments.json else format_scores(found))
    return 0


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise DataError(f"{path} is not a folder")
    return path


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


def _serve(arguments: argparse.Namespace) -> int:
    from gluonseg.serve.server import run_server
    from gluonseg.serve.settings import read_settings

    settings = read_settings(os.environ)
    changes = {"model_path": arguments.model, "host": arguments.host, "port": arguments.port}
    return run_server(dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None}))


def _convert(arguments: argparse.Namespace) -> int:
    from gluonseg.models.convert import convert_backbone, write_backbone

    write_backbone(convert_backbone(arguments.source, arguments.backbone), arguments.output)
    print(f"wrote {arguments.output}")
    return 0


def _doctor(_arguments: argparse.Namespace) -> int:
    from gluonseg.cores import count_usable_cores
    from gluonseg.device import find_devices
    from gluonseg.train.writer import describe_versions

    for name, version in describe_versions().items():
        print(f"{name:<10} {version}")
    print(f"{'cores':<10} {count_usable_cores()}")
    print(f"{'devices':<10} {', '.join(str(device) for device in find_devices())}")
    return 0


def _hyperparameters(_arguments: argparse.Namespace) -> int:
    from gluonseg.report.hyperparameter_table import format_table

    print(format_table())
    return 0


def _add_command(commands: Any, name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    parser.set_defaults(handler=handler)
    return parser


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a whole number from 1 to 65535, got {text!r}")
    return int(text)


def _add_hyperparameter(parser: argparse.ArgumentParser, name: str, text: str = "") -> None:
    """An option that takes what the hyperparameter of its name takes."""
    one = get_specs()[name]

    def parse(value: str) -> Any:
        try:
            return parse_value(name, value, one)
        except HyperparameterError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    default = None if text else one.default
    parser.add_argument(f"--{name}", type=parse, default=default, help=text or f"{one.help} (default {default})")


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    for name in ("ignore_label", "max_pixels"):
        _add_hyperparameter(parser, name)


def _add_check(commands: Any) -> None:
    parser = _add_command(commands, "check", _check, "Read all images and masks once and report what is wrong.")
    parser.add_argument("channels", type=Path, help="folder with train, train_annotation, validation, ...")
    _add_hyperparameter(parser, "num_classes", "classes the masks should hold; suggested when left out")
    _add_hyperparameter(parser, "crop_size", "warn of images smaller than this")
    _add_data_options(parser)


def _add_prepare(commands: Any) -> None:
    parser = commands.add_parser("prepare", help="Make the channels of a data set.")
    kinds = parser.add_subparsers(required=True, metavar="DATASET")
    pets = _add_command(kinds, "oxford-pets", _prepare_pets, "The Oxford-IIIT Pet data set, or any in its layout.")
    pets.add_argument("source", type=Path, help="folder with images/ and annotations/, or with the two tar.gz files")
    pets.add_argument("out", type=Path, help="folder to write the channels to")
    pets.add_argument("--classes", default="trimap", choices=("trimap", "pet", "species", "breed"))
    pets.add_argument("--split", default="random", choices=("random", "official"))
    pets.add_argument("--validation_share", type=float, default=0.25, help="share of photos (random split)")
    pets.add_argument("--seed", type=int, default=0, help="seed of the random split")
    pets.add_argument("--download", action="store_true", help="fetch the two tar.gz files into SOURCE first")
    drawn = _add_command(kinds, "synthetic", _prepare_synthetic, "A small drawn data set: discs, boxes, triangles.")
    drawn.add_argument("out", type=Path, help="folder to write the channels to")
    drawn.add_argument("--count", type=int, default=96, help="pictures in all (default 96)")
    drawn.add_argument("--size", type=int, default=96, help="typical side in pixels (default 96)")
    drawn.add_argument("--seed", type=int, default=0)


def _add_train(commands: Any) -> None:
    text = "Train on a folder of channels; hyperparameters have SageMaker's names."
    parser = _add_command(commands, "train", _train, text)
    parser.add_argument("channels", type=Path, help="folder with train, train_annotation, validation, ...")
    parser.add_argument("--output", type=Path, required=True, help="folder for model/ and output/")
    for name, one in get_specs().items():
        hidden = name.startswith("_")
        shown = "none" if one.default in (None, ()) else format_value(one.default)
        default = "required" if one.required else f"default {shown}"
        text = argparse.SUPPRESS if hidden else f"{one.help} ({default})".replace("%", "%%")
        parser.add_argument(f"--{name}", help=text, metavar="VALUE")


def _add_use(commands: Any) -> None:
    predict = _add_command(commands, "predict", _predict, "Write a mask of class ids for each picture.")
    predict.add_argument("images", type=Path, nargs="+", help="pictures, or folders of pictures")
    predict.add_argument("--model", type=Path, required=True, help="model folder or model.tar.gz")
    predict.add_argument("--output", type=Path, required=True, help="folder for <name>.png")
    predict.add_argument("--overlay", action="store_true", help="also write <name>_overlay.png")
    evaluate = _add_command(commands, "evaluate", _evaluate, "Score a model on pictures and masks.")
    evaluate.add_argument("images", type=Path, help="folder of pictures")
    evaluate.add_argument("masks", type=Path, help="folder of masks with the same names")
    evaluate.add_argument("--model", type=Path, required=True, help="model folder or model.tar.gz")
    evaluate.add_argument("--label_map", type=Path, help="label map file of the masks")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    _add_hyperparameter(predict, "max_pixels")
    _add_data_options(evaluate)
    serve = _add_command(commands, "serve", _serve, "Serve a model over HTTP: /ping and /invocations.")
    serve.add_argument("--model", type=Path, help="model folder or model.tar.gz (default /opt/ml/model)")
    serve.add_argument("--host", help="address to listen on (default 0.0.0.0)")
    serve.add_argument("--port", type=_parse_port, help="port (default 8080, or SAGEMAKER_BIND_TO_PORT)")


def _add_tools(commands: Any) -> None:
    convert = _add_command(commands, "convert", _convert, "Turn public backbone weights (safetensors) into .params.")
    convert.add_argument("source", type=Path)
    convert.add_argument("--backbone", required=True, choices=get_specs()["backbone"].choices)
    convert.add_argument("--output", type=Path, required=True)
    _add_command(commands, "doctor", _doctor, "Print versions, cores and devices, for bug reports.")
    _add_command(commands, "hyperparameters", _hyperparameters, "Print the table of all hyperparameters.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command; built anew for every call."""
    parser = argparse.ArgumentParser(prog="gluonseg", description="Semantic segmentation: FCN, PSP and DeepLab.")
    parser.add_argument("--version", action="version", version=f"gluonseg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    adders: Iterable[Callable[[Any], None]] = (_add_prepare, _add_check, _add_train, _add_use, _add_tools)
    for add in adders:
        add(commands)
    return parser


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str], handler: Handler) -> None:
    """Of train's options the hyperparameters know the nearest name; of the others argparse says enough."""
    names = [text[2:].partition("=")[0] for text in unknown if text.startswith("--")]
    if handler is _train and names:
        raise HyperparameterError("; ".join(describe_unknown(name) for name in names))
    parser.error(f"unrecognized arguments: {' '.join(unknown)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 2 with one line on standard error for what the user can fix."""
    parser = build_parser()
    parsed, unknown = parser.parse_known_args(arguments)
    handler: Handler = parsed.handler
    try:
        if unknown:
            _refuse_unknown(parser, unknown, handler)
        code = handler(parsed)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"gluonseg: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader has seen enough: gluonseg hyperparameters | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"gluonseg: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
