"""Trained networks of CSAIL's semantic-segmentation-pytorch, an encoder's file and a decoder's, as a model of ours.

https://github.com/CSAILVision/semantic-segmentation-pytorch saves ``encoder_epoch_N.pth`` and ``decoder_epoch_N.pth``;
here both are safetensors files. What they are of is seen from the names and shapes of the tensors. One thing is not:
whether the last stages of a ResNet or MobileNetV2 were dilated (stride 8, as in most networks published there) or not.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from gluonseg.data.decode import read_bytes
from gluonseg.data.label_channel import parse_class_names
from gluonseg.data.palettes import choose_palette
from gluonseg.errors import DataError, ModelError
from gluonseg.files import write_text
from gluonseg.labels import MAX_CLASSES
from gluonseg.models.convert import (
    FloatArray,
    compute_shapes,
    describe_mismatch,
    match_backbone,
    read_floats,
    read_shapes,
)
from gluonseg.models.folder.card import CARD_FILE, ModelCard, build_card, encode_card
from gluonseg.models.folder.manifest import BEST_FILE, MODEL_FILES, listing_files
from gluonseg.models.network import build_network
from gluonseg.models.params import write_params
from gluonseg.models.registry import find_network, get_encoders
from gluonseg.models.torch_names import Naming, Shapes, compute_torch_name, guess_encoder
from gluonseg.text import join_names

_log = logging.getLogger(__name__)
_AUXILIARY = ("cbr_deepsup.", "conv_last_deepsup.")
_CLASSIFIERS = ("conv_last.4.weight", "conv_last.1.weight", "conv_last.weight")
"""The last convolution of PPM, UPerNet and C1."""
_ADE20K_CLASSES = 150
_UPERNET = (
    (r"head\.((ppm_conv|ppm_last_conv|fpn_in)\..+)", r"\1"),
    (r"head\.fpn_out\.(\d)\.(\d)", r"fpn_out.\1.0.\2"),
    (r"head\.conv_last\.([01])", r"conv_last.0.\1"),
    (r"head\.conv_last\.3", "conv_last.1"),
)
_LAYERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "c1": ((r"head\.([01])", r"cbr.\1"), (r"head\.3", "conv_last")),
    "hrnet": ((r"head\.c1\.([01])", r"cbr.\1"), (r"head\.c1\.3", "conv_last")),
    "ppm": (
        (r"head\.ppm\.(\d)\.0", r"ppm.\1.1"),
        (r"head\.ppm\.(\d)\.1", r"ppm.\1.2"),
        (r"head\.(conv_last\.\d)", r"\1"),
    ),
    "upernet": _UPERNET,
    "upernet-lite": _UPERNET,
}
"""Patterns of a decoder's layers here, and their names there."""
_DEEP_SUPERVISION = ((r"auxlayer\.([01])", r"cbr_deepsup.\1"), (r"auxlayer\.[34]", "conv_last_deepsup"))


def _build_naming(algorithm: str) -> Naming:
    def rename(layer: str) -> str:
        rules = (*_LAYERS[algorithm], *_DEEP_SUPERVISION)
        return next(found.expand(name) for pattern, name in rules if (found := re.fullmatch(pattern, layer)))

    return Naming(rename)


def _guess_decoder(shapes: Shapes, backbone: str) -> str:
    """The network whose decoder's tensors ``shapes`` look like; empty for none."""
    if "fpn_in.0.0.weight" in shapes:
        return "upernet" if shapes["fpn_in.0.0.weight"][0] > 256 else "upernet-lite"
    if "ppm.0.1.weight" in shapes:
        return "ppm"
    if "cbr.0.weight" in shapes:
        return "hrnet" if backbone.startswith("hrnet-") else "c1"
    return ""


def _find_architecture(encoder: Path, decoder: Path, parts: tuple[Shapes, Shapes]) -> tuple[str, str]:
    """The names of the network and of its backbone; ``parts`` are the shapes of both files."""
    backbone = guess_encoder(parts[0])
    algorithm = _guess_decoder(parts[1], backbone)
    if _guess_decoder(parts[0], "") and guess_encoder(parts[1]):
        raise ModelError(f"{encoder} is the decoder and {decoder} the encoder; give them the other way round")
    for path, shapes, kind, name in (
        (encoder, parts[0], "encoder", backbone),
        (decoder, parts[1], "decoder", algorithm),
    ):
        if not name:
            raise ModelError(
                f"{path} is no {kind} of CSAIL's that is known here: it has the tensors {join_names(shapes, 3)}. Known "
                "are ResNet, MobileNetV2 and HRNet with C1, PPM and UPerNet, each with the names it is saved with"
            )
    if backbone not in get_encoders():
        raise ModelError(
            f"{encoder} holds {backbone}; the encoders that are known here are {join_names(get_encoders())}"
        )
    return algorithm, backbone


def _leave_out_auxiliary(decoder: Path, backbone: str, shapes: Shapes) -> Shapes:
    """``shapes`` without deep supervision where that is not on the features that our auxiliary head is on."""
    kept = {name: shape for name, shape in shapes.items() if not name.startswith(_AUXILIARY)}
    if backbone != "mobilenet-v2" or len(kept) == len(shapes):
        return shapes
    _log.warning(
        "Deep supervision of %s is left out: there it is on 160 channels of MobileNetV2, here on the 96 before them. "
        "Prediction does not use it.",
        decoder,
    )
    return kept


def match_decoder(
    decoder: Path, algorithm: str, backbone: str, found: Shapes, output_stride: int | None = None
) -> tuple[ModelCard, dict[str, str]]:
    """The card of a network, and the structural name by CSAIL's name of its decoder's parameters.

    ``found`` are the shapes of the tensors of the safetensors file ``decoder``. Raises ModelError, naming the tensors,
    when one is missing, left over or of another shape.
    """
    found = _leave_out_auxiliary(decoder, backbone, found)
    num_classes = next((found[name][0] for name in _CLASSIFIERS if name in found), 0)
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ModelError(
            f"{decoder} has {num_classes} classes, by {' or '.join(_CLASSIFIERS)}; 2 to {MAX_CLASSES} can be told apart"
        )
    network, has_auxiliary = find_network(algorithm), any(name.startswith(_AUXILIARY) for name in found)
    built = build_network(algorithm, backbone, num_classes, aux=has_auxiliary, output_stride=output_stride)
    shapes = {name: shape for name, shape in compute_shapes(built).items() if name.startswith(network.heads)}
    naming = _build_naming(algorithm)
    names = {compute_torch_name(name, naming): name for name in shapes}
    mismatch = describe_mismatch({torch: shapes[name] for torch, name in names.items()}, found)
    if mismatch:
        raise ModelError(
            f"{decoder} is no decoder {network.title} for an encoder {backbone}: {mismatch}. Give both files of one "
            "training"
        )
    colours = choose_palette("ade20k", num_classes) if num_classes == _ADE20K_CLASSES else None
    described = network.describe(aux=has_auxiliary, output_stride=output_stride)
    return build_card(algorithm, backbone, num_classes, colours=colours, **described), names


def read_checkpoint(
    encoder: Path, decoder: Path, backbone: str | None = None, output_stride: int | None = None
) -> tuple[ModelCard, dict[str, FloatArray]]:
    """Read both files of a network of CSAIL's: its card, and its parameters (float32) by structural name.

    ``backbone`` is the name that the encoder must have, None for any. ``output_stride`` is that of the network, None
    for its first: 8 for C1 and PPM. Deep supervision becomes the auxiliary head, if the decoder has it. With 150
    classes the colours are those of ADE20K. Raises ModelError, naming the file and the tensors, when one is missing,
    left over, of another shape or not finite.
    """
    parts = read_shapes(encoder), read_shapes(decoder)
    algorithm, found_backbone = _find_architecture(encoder, decoder, parts)
    if backbone not in (None, found_backbone):
        raise ModelError(f"{encoder} holds {found_backbone}, not {backbone}; leave --backbone out, or set it to that")
    encoder_names = match_backbone(encoder, found_backbone, parts[0])
    card, decoder_names = match_decoder(decoder, algorithm, found_backbone, parts[1], output_stride)
    return card, {**read_floats(encoder, encoder_names), **read_floats(decoder, decoder_names)}


def name_classes(card: ModelCard, path: Path) -> ModelCard:
    """The card with the class names of a JSON file; DataError when it has not one name a class."""
    names = parse_class_names(read_bytes(path), str(path))
    if len(names) != card.num_classes:
        raise DataError(f"{path} has {len(names)} names, and the model has {card.num_classes} classes")
    return dataclasses.replace(card, class_names=tuple(names))


def check_model_folder(folder: Path) -> None:
    """Raise ModelError when ``folder`` is a file, or holds a model already."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; with --decoder, --output names the model folder")
    present = [name for name in MODEL_FILES if (folder / name).exists()]
    if present:
        raise ModelError(f"{folder} holds a model already ({present[0]}); name another folder for the new one")


def write_model(card: ModelCard, arrays: Mapping[str, FloatArray], folder: Path) -> None:
    """Write a model folder of a card and parameters; raises as :func:`check_model_folder`."""
    check_model_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with listing_files(folder, BEST_FILE, CARD_FILE):
        write_params(arrays, folder / BEST_FILE)
        write_text(folder / CARD_FILE, encode_card(card))
