"""The ``gluonseg`` command: its options, and one line for what the user can fix."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from gluonseg import __version__, command
from gluonseg.compare.plan import VARIED, describe_unknown_options
from gluonseg.data.decode import LARGEST_MAX_PIXELS
from gluonseg.data.palettes import PALETTES
from gluonseg.errors import HyperparameterError, UserError
from gluonseg.hyperparameters import OTHER_SPELLINGS, describe_unknown, get_specs
from gluonseg.metrics import PROTOCOLS
from gluonseg.models.folder.manifest import FLOAT32, ONNX_FILES
from gluonseg.models.registry import get_encoders
from gluonseg.models.torch_names import list_namings
from gluonseg.parameter import Spec, format_value, parse_value
from gluonseg.predict.tile import MAX_NETWORK_PIXELS
from gluonseg.text import escape_lines

Handler = Callable[[argparse.Namespace], int]
TRAINING_MODULES = ("mxnet", "gluoncv", "scipy", "sagemaker_training", "safetensors", "requests")
"""What the extra "train" brings; a model is used without."""


def _add_command(commands: Any, name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(handler=handler)
    return parser


def _add_parsed(parser: argparse.ArgumentParser, name: str, one: Spec) -> None:
    """Add an option whose value is parsed by its specification."""

    def parse(text: str) -> Any:
        try:
            return parse_value(name, text, one)
        except HyperparameterError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    shown = "" if one.default is None else f" (default {one.default})"
    parser.add_argument(f"--{name}", type=parse, default=one.default, help=one.help + shown)


def _add_hyperparameter(parser: argparse.ArgumentParser, name: str, **changes: Any) -> None:
    """Add an option that takes what the hyperparameter of its name takes."""
    _add_parsed(parser, name, dataclasses.replace(get_specs()[name], **changes))


def _add_check(commands: Any) -> None:
    parser = _add_command(commands, "check", command.run_check, "Read all images and masks and report what is wrong.")
    parser.add_argument("channels", type=Path, help="folder with train, train_annotation, validation, ...")
    text = "classes the masks should hold; suggested when left out"
    _add_hyperparameter(parser, "num_classes", default=None, help=text)
    _add_hyperparameter(parser, "crop_size", default=None, help="warn of images smaller than this")
    _add_hyperparameter(parser, "ignore_label")
    _add_hyperparameter(parser, "max_pixels")
    _add_hyperparameter(parser, "photo_range")


def _parse_names(text: str) -> list[str]:
    """Class names with commas between, or one a line in a file."""
    try:
        # Path.is_file raises where a long list would be too long for a name.
        names = Path(text).read_text(encoding="utf-8-sig").splitlines() if os.path.isfile(text) else text.split(",")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {error}") from None
    return [name.strip() for name in names if name.strip()]


def _parse_folder_map(text: str) -> tuple[str, Path]:
    """``s3://bucket/prefix=FOLDER`` as its two parts."""
    prefix, _, folder = text.partition("=")
    if not prefix.startswith("s3://") or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form s3://bucket/prefix=FOLDER")
    return prefix, Path(folder)


_PREPARE_OPTIONS: dict[str, dict[str, Any]] = {
    "masks": {"type": Path, "required": True, "metavar": "FOLDER", "help": "folder of masks"},
    "photos": {"type": Path, "metavar": "FOLDER", "help": "folder of photos, where they are not below SOURCE"},
    "photo_names": {"default": "", "metavar": "PATTERN", "help": "as '*_photo': * is what photo and mask share"},
    "mask_names": {"default": "", "metavar": "PATTERN", "help": "as '*_mask'"},
    "colours": {"type": Path, "metavar": "FILE", "help": "classes and colours, lines such as car,64,0,128"},
    "by": {"choices": ("value", "colour"), "help": "what tells classes apart in a mask (default: it is found out)"},
    "camvid/classes": {"default": "11", "choices": ("11", "32"), "help": "the tutorial's 11, or all of the original"},
    "map": {"type": _parse_folder_map, "action": "append", "default": [], "metavar": "S3=FOLDER", "help": "its copy"},
    "attribute": {"default": "", "metavar": "NAME", "help": "of the mask (default: the one with a colour map)"},
    "classes": {"type": _parse_names, "default": (), "metavar": "LIST", "help": "a,b,c or a file with a name a line"},
}
_KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "folders": (
        "Photos and masks in any two folders.",
        "folder of photos, with train/ and val/ or without",
        ("masks", "photo_names", "mask_names", "colours", "by", "classes"),
    ),
    "voc": ("PASCAL VOC, or any data in its layout.", "folder with SegmentationClass/ below", ("photos", "colours")),
    "cityscapes": ("Cityscapes, its 19 classes.", "folder with leftImg8bit/ and gtFine/", ()),
    "camvid": ("CamVid, original or of the SegNet tutorial.", "folder of photos and masks", ("camvid/classes",)),
    "ade20k": ("ADE20K, or .odgt lists.", "folder with images/ and annotations/, or with .odgt lists", ("classes",)),
    "coco": ("COCO's instances.", "folder with the JSON files, or one of them", ("photos", "classes")),
    "labelme": ("labelme's JSON files.", "folder with a JSON file for each photo", ("photos", "classes")),
    "cvat": ("An export of CVAT: XML or masks.", "folder of the unpacked export", ("photos", "classes")),
    "ground-truth": ("SageMaker Ground Truth.", "output.manifest of the labeling job", ("map", "attribute")),
}
"""Kind of data -> what it is, what SOURCE is, and its own options."""


def _add_kind(kinds: Any, kind: str) -> None:
    text, source, options = _KINDS[kind]
    parser = _add_command(kinds, kind, command.run_prepare, text)
    parser.set_defaults(kind=kind, options=[name.removeprefix(f"{kind}/") for name in options])
    parser.add_argument("source", type=Path, help=source)
    parser.add_argument("out", type=Path, help="folder to write the channels to")
    for name in options:
        parser.add_argument(f"--{name.removeprefix(f'{kind}/')}", **_PREPARE_OPTIONS[name])
    text = "the set's own lists, or by chance (default: official where there are lists for both)"
    parser.add_argument("--split", default="", choices=("random", "official"), help=text)
    _add_random_split(parser)
    _add_hyperparameter(parser, "photo_range")


def _add_random_split(parser: argparse.ArgumentParser) -> None:
    text = "share of photos for validation (random split, default %(default)s)"
    parser.add_argument("--validation_share", type=float, default=0.25, help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random split")


def _add_prepare(commands: Any) -> None:
    parser = commands.add_parser("prepare", help="Make the channels of a data set.")
    kinds = parser.add_subparsers(required=True, metavar="DATASET")
    for kind in _KINDS:
        _add_kind(kinds, kind)
    pets = _add_command(kinds, "oxford-pets", command.run_prepare_pets, "Oxford-IIIT Pet, or any data in its layout.")
    pets.add_argument("source", type=Path, help="folder with images/ and annotations/, or with the two tar.gz files")
    pets.add_argument("out", type=Path, help="folder to write the channels to")
    pets.add_argument("--classes", default="trimap", choices=("trimap", "pet", "species", "breed"))
    pets.add_argument("--split", default="random", choices=("random", "official"))
    _add_random_split(pets)
    pets.add_argument("--download", action="store_true", help="fetch the two tar.gz files into SOURCE first")
    drawn = _add_command(kinds, "synthetic", command.run_prepare_synthetic, "Drawn photos: discs, boxes, triangles.")
    drawn.add_argument("out", type=Path, help="folder to write the channels to")
    drawn.add_argument("--count", type=int, default=96, help="pictures in all (default 96)")
    drawn.add_argument("--size", type=int, default=96, help="typical side in pixels (default 96)")
    drawn.add_argument("--seed", type=int, default=0)


def _add_train(commands: Any) -> None:
    text = "Train on a folder of channels; hyperparameters have SageMaker's names."
    parser = _add_command(commands, "train", command.run_train, text)
    parser.add_argument("channels", type=Path, help="folder with train, train_annotation, validation, ...")
    parser.add_argument("--output", type=Path, required=True, help="folder for model/ and output/")
    text = "folder for checkpoints; the same command goes on from the last one there (default: none are kept)"
    parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help=text)
    _add_all_hyperparameters(parser)


def _add_all_hyperparameters(parser: argparse.ArgumentParser, leave_out: Collection[str] = ()) -> None:
    """Add each as the text that SageMaker would pass; the training checks all of them at once."""
    for name, one in get_specs().items():
        if name in leave_out:
            continue
        shown = "none" if one.default in (None, ()) else format_value(one.default)
        default = "required" if one.required else f"default {shown}"
        valid = f"{one.describe_range()}; " if one.choices else ""
        text = f"{one.help} ({valid}{default})".replace("%", "%%")
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS if name.startswith("_") else text, metavar="VALUE")
    for name in OTHER_SPELLINGS:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)


def _add_compare(commands: Any) -> None:
    text = "Train several algorithms, backbones and seeds on the same data, score each, and write one report."
    parser = _add_command(commands, "compare", command.run_compare, text)
    parser.add_argument("channels", type=Path, help="folder with train, train_annotation, validation, ...")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and report.html")
    specs = get_specs()
    backbone = specs["backbone"].default
    lists = {
        "algorithms": ("fcn,psp,deeplab,unet", "networks to compare"),
        "backbones": (backbone, "encoders under each"),
        "seeds": (str(specs["seed"].default), "each network is trained once with each seed"),
    }
    for name, (default, help_text) in lists.items():
        shown = f"{help_text}, with commas between them (default %(default)s)"
        parser.add_argument(f"--{name}", default=default, metavar="LIST", help=shown)
    _add_all_hyperparameters(parser, leave_out=VARIED.values())
    text = "Write the report of a comparison, a run or a model: report.html, .json, .csv and .md."
    report = _add_command(commands, "report", command.run_report, text)
    source = "what compare was given as --out, a run in it, a model folder or a model.tar.gz"
    report.add_argument("source", type=Path, help=source)
    channels = "for a run or a model: folder of channels, for its photos; a model is scored on them"
    report.add_argument("--channels", type=Path, help=channels)
    report.add_argument("--out", type=Path, help="folder for the reports (default: SOURCE, or one beside an archive)")


def _add_use(commands: Any) -> None:
    predict = _add_command(commands, "predict", command.run_predict, "Write a mask of class ids for each picture.")
    predict.add_argument("images", type=Path, nargs="+", help="pictures, or folders of pictures")
    predict.add_argument("--model", type=Path, required=True, help="model folder or model.tar.gz")
    predict.add_argument("--output", type=Path, required=True, help="folder for <name>.png")
    predict.add_argument("--overlay", action="store_true", help="also write <name>_overlay.png")
    text = "also write index.html, a page with each picture, its overlay and the shares of its classes"
    predict.add_argument("--html", action="store_true", help=text)
    predict.add_argument("--palette", choices=PALETTES, help="colours of the overlays (default: the model's)")
    predict.add_argument("--shares", action="store_true", help="print each picture's classes with their shares")
    evaluate = _add_command(commands, "evaluate", command.run_evaluate, "Score a model on pictures and masks.")
    evaluate.add_argument("images", type=Path, help="folder of pictures")
    evaluate.add_argument("masks", type=Path, help="folder of masks with the same names")
    evaluate.add_argument("--model", type=Path, required=True, help="model folder or model.tar.gz")
    evaluate.add_argument("--label_map", type=Path, help="label map file of the masks")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    text = "whose way to score: gluonseg's own, or that of the CSAIL or the Keras project (default %(default)s)"
    evaluate.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0], help=text)
    text = "csail: predict at one size, short side 450, in place of five"
    evaluate.add_argument("--single_scale", action="store_true", help=text)
    _add_hyperparameter(evaluate, "ignore_label")
    for parser in (predict, evaluate):
        _add_prediction_options(parser)
    serve = _add_command(commands, "serve", command.run_serve, "Serve a model over HTTP: /ping and /invocations.")
    serve.add_argument("--model", type=Path, help="model folder or model.tar.gz (default /opt/ml/model)")
    serve.add_argument("--host", help="address to listen on (default 0.0.0.0)")
    port = Spec(int, None, "port (default 8080, or SAGEMAKER_BIND_TO_PORT)", low=1, high=65535)
    _add_parsed(serve, "port", port)

    app = _add_command(commands, "app", command.run_app, "Serve a web page that turns photos into masks.")
    text = "model folders, model.tar.gz files, runs, or what compare wrote (default /opt/ml/model, or the image's)"
    app.add_argument("models", type=Path, nargs="*", help=text)
    app.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all (default %(default)s)")
    _add_parsed(app, "port", port)
    app.add_argument("--examples", type=Path, metavar="FOLDER", help="photos that the page offers to try")
    rate = Spec(int, 120, "photos that one address may send in a minute; 0 is no limit", low=0, high=100_000)
    _add_parsed(app, "rate", rate)


def _add_prediction_options(parser: argparse.ArgumentParser) -> None:
    scales = "scales to predict and average, such as 0.75,1,1.25 (default: the model's, mostly 1)"
    parser.add_argument("--scales", metavar="LIST", help=scales)
    parser.add_argument("--flip", action="store_true", default=None, help="predict each scale mirrored, too")
    text = "int8 needs a model that gluonseg export --int8 has converted (default %(default)s)"
    parser.add_argument("--precision", choices=tuple(ONNX_FILES), default=FLOAT32, help=text)
    text = "larger pictures are shrunk to this for the network"
    limit = Spec(int, MAX_NETWORK_PIXELS, text, low=4096, high=LARGEST_MAX_PIXELS)
    _add_parsed(parser, "max_network_pixels", limit)
    _add_hyperparameter(parser, "max_pixels")


def _add_tools(commands: Any) -> None:
    export = _add_command(commands, "export", command.run_export, "Write a model as ONNX, checked against MXNet.")
    export.add_argument("model", type=Path, help="model folder or model.tar.gz")
    export.add_argument("--output", type=Path, help="folder for model.onnx (default: the model folder)")
    export.add_argument("--int8", action="store_true", help="also write model_int8.onnx, unless it loses too much mIoU")
    export.add_argument("--channels", type=Path, help="folder with train, validation and their masks, for --int8")
    text = (
        "Turn public backbone weights (safetensors) into .params, or an encoder and a decoder of CSAIL's into a model."
    )
    convert = _add_command(commands, "convert", command.run_convert, text)
    convert.add_argument("source", type=Path, help="safetensors file of a backbone or of an encoder")
    convert.add_argument("--decoder", type=Path, help="safetensors file of the decoder that was trained with SOURCE")
    backbones = [name for name in get_encoders() if list_namings(name)]
    convert.add_argument("--backbone", choices=backbones, help="what SOURCE is of; with --decoder it is found out")
    text = "stride of the logits with --decoder, where it is not the network's first (a plain encoder of C1 or PPM: 32)"
    convert.add_argument("--output_stride", type=int, help=text)
    text = "with --decoder: JSON list of the names of the classes, as class_names.json of the label_map channel"
    convert.add_argument("--class_names", type=Path, help=text)
    text = "the .params file to write; with --decoder the model folder"
    convert.add_argument("--output", type=Path, required=True, help=text)
    _add_command(commands, "doctor", command.run_doctor, "Print versions, cores and devices, for bug reports.")
    _add_command(commands, "hyperparameters", command.run_hyperparameters, "Print the table of all hyperparameters.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command; built anew for every call."""
    parser = argparse.ArgumentParser(prog="gluonseg", description="Semantic segmentation, as SageMaker has it.")
    parser.add_argument("--version", action="version", version=f"gluonseg {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    for add in (_add_prepare, _add_check, _add_train, _add_compare, _add_use, _add_tools):
        add(commands)
    return parser


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str], handler: Handler) -> None:
    """Say of train's and compare's options which ones were probably meant; argparse says enough of the others."""
    names = [text[2:].partition("=")[0] for text in unknown if text.startswith("--")]
    describers = {command.run_train: describe_unknown, command.run_compare: describe_unknown_options}
    if handler in describers and names:
        raise HyperparameterError("; ".join(describers[handler](names)))
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
        print(f"gluonseg: {escape_lines(str(error))}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_MODULES:
            raise
        needs = f'"{parsed.command}" needs {error.name}, which is not installed'
        print(f'gluonseg: {needs}: it comes with the extra "train", see docs/install.md', file=sys.stderr)
        return UserError.exit_code
    except BrokenPipeError:  # the reader has seen enough: gluonseg hyperparameters | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"gluonseg: {escape_lines(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
