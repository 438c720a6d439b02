"""The hyperparameters: one dataclass that is also the table of names, types, ranges and help.

Names, defaults and ranges are those of SageMaker's built-in algorithm
(https://docs.aws.amazon.com/sagemaker/latest/dg/segmentation-hyperparameters.html); fields marked
``beyond`` are additions. SageMaker hands everything over as strings: :mod:`gluonseg.parameter` parses
one value, :func:`parse_hyperparameters` the whole set, and reports every problem at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from gluonseg.data.decode import DEFAULT_MAX_PIXELS, LARGEST_MAX_PIXELS
from gluonseg.data.palettes import PALETTES, find_palette_problem
from gluonseg.errors import HyperparameterError
from gluonseg.labels import MAX_CLASSES
from gluonseg.models.folder.card import LARGEST_SCALE, MAX_SCALES, MAX_VALUE, SMALLEST_SCALE, is_photo_range
from gluonseg.models.registry import find_network, get_encoders, get_networks
from gluonseg.parameter import Spec, format_value, parse_value, spec
from gluonseg.text import find_nearest, join_names, shorten

CROP_MULTIPLE = 8
LARGEST_SIDE = 16384
"""Pixels of a side that pictures are scaled to: a photo of that size takes 800 MB."""
OPTIMIZERS = ("sgd", "adam", "nag", "rmsprop", "adagrad", "adadelta")
LOSSES = ("cross_entropy", "dice", "focal", "ohem")
OTHER_SPELLINGS = {"optimzer": "optimizer"}
"""How a page of AWS spells a hyperparameter -> its name."""


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """All settings of a training job, parsed and within range. Sizes are pixels, rates are per update."""

    num_classes: int = spec(int, None, low=2, high=MAX_CLASSES, required=True, help="Classes, without ignore.")
    algorithm: str = spec(str, "fcn", choices=get_networks, help="The network, see docs/networks.md.")
    backbone: str = spec(str, "resnet-50", choices=get_encoders, help="The encoder under the head.")
    use_pretrained_model: bool = spec(bool, True, help="Start the backbone from ImageNet weights.")
    num_training_samples: int | None = spec(
        int, None, low=1, help="Photos in the train channel; counted when left out, corrected when wrong."
    )
    crop_size: int = spec(
        int, 240, above=16, high=LARGEST_SIDE, help="Side of the training crop, rounded up to a multiple of 8."
    )
    base_size: int = spec(int, 520, above=16, high=LARGEST_SIDE // 2, help="Long side that random scaling starts from.")
    epochs: int = spec(int, 10, low=1, high=1_000_000, help="Passes over the training data.")
    learning_rate: float = spec(float, 0.001, above=0, high=1, tunable="1e-4 to 0.1", help="Not used by adadelta.")
    optimizer: str = spec(
        str, "sgd", choices=OPTIMIZERS, tunable="sgd, adam, adadelta", help="The update rule; `optimzer` is read, too."
    )
    lr_scheduler: str = spec(str, "poly", choices=("poly", "step", "cosine"), help="How the rate falls.")
    lr_scheduler_factor: float = spec(float, 0.1, low=0, high=1, help="step: what the rate is multiplied by.")
    lr_scheduler_step: tuple[int, ...] = spec(
        tuple, (), item=int, low=1, help='step: the epochs at which it happens, as "10, 20".'
    )
    weight_decay: float = spec(float, 0.0001, low=0, below=1, tunable="1e-5 to 1e-3", help="L2 penalty.")
    momentum: float = spec(float, 0.9, low=0, high=1, tunable="0.9 to 0.999", help="sgd and nag.")
    gamma1: float = spec(float, 0.9, low=0, high=1, help="rmsprop: decay of the squared gradient.")
    gamma2: float = spec(float, 0.9, low=0, high=1, help="rmsprop: decay of the gradient (momentum).")
    mini_batch_size: int = spec(int, 16, low=1, tunable="1 to 128", help="Crops in an update, over all devices.")
    validation_mini_batch_size: int = spec(
        int, 16, low=1, help="Crops in a validation batch; 1 scores whole photos, as the built-in."
    )
    early_stopping: bool = spec(bool, False, help="Stop when validation mIOU no longer rises.")
    early_stopping_min_epochs: int = spec(int, 5, low=0, help="Epochs before it may stop.")
    early_stopping_patience: int = spec(int, 4, low=0, help="Epochs without progress before it stops.")
    early_stopping_tolerance: float = spec(float, 0.0, low=0, high=1, help="Relative rise that counts as progress.")
    precision_dtype: str = spec(str, "float32", choices=("float32", "float16"), help="float16 needs a GPU.")
    syncbn: bool = spec(bool, False, help="Batch statistics over all devices together.")

    seed: int = spec(int, 0, low=0, high=2**31 - 1, beyond=True, help="Same seed, same samples and start weights.")
    ignore_label: int = spec(int, 255, low=0, high=255, beyond=True, help="A label that is not scored, besides 255.")
    class_weights: tuple[float, ...] | str = spec(
        tuple, (), item=float, above=0, words=("balanced",), beyond=True,
        help='Weight of each class in the loss, as "1, 1, 2.5", or "balanced" from the masks.',
    )  # fmt: skip
    class_names: tuple[str, ...] = spec(
        tuple, (), item=str, beyond=True, help='Names by class id, as "pet, background, border".'
    )
    palette: str | None = spec(
        str, None, choices=PALETTES, beyond=True,
        help="The data set whose colours the classes have in overlays and reports.",
    )  # fmt: skip
    prediction_size: int = spec(
        int, 0, low=0, high=LARGEST_SIDE, beyond=True,
        help="Long side photos are resized to for prediction; 0 = as they are.",
    )  # fmt: skip
    prediction_scales: tuple[float, ...] = spec(
        tuple, (), item=float, low=SMALLEST_SCALE, high=LARGEST_SCALE, beyond=True,
        help='Scales of a photo that are predicted and averaged, as "0.75, 1, 1.25"; none is 1 alone.',
    )  # fmt: skip
    prediction_flip: bool = spec(bool, False, beyond=True, help="Predict each scale mirrored, too, and average.")
    scale_min: float = spec(float, 0.5, above=0, high=10, beyond=True, help="Least random scale of base_size.")
    scale_max: float = spec(float, 2.0, above=0, high=10, beyond=True, help="Greatest random scale of base_size.")
    colour_jitter: float = spec(float, 0.0, low=0, below=1, beyond=True, help="Random change of colours, 0 = none.")
    rotation: float = spec(
        float, 0.0, low=0, high=180, beyond=True, help="Degrees that a sample is turned at most, either way."
    )
    vertical_flip: bool = spec(bool, False, beyond=True, help="Turn a sample upside down, with probability 1/2.")
    class_balanced_crops: bool = spec(
        bool, False, beyond=True, help="Half of the crops show a class that is drawn, the rarer the likelier."
    )
    loss: str = spec(
        str, "cross_entropy", beyond=True,
        help='cross_entropy, dice, focal, ohem (online hard examples), or a sum, as "cross_entropy+dice".',
    )  # fmt: skip
    focal_gamma: float = spec(
        float, 2.0, low=0, high=10, beyond=True, help="focal: the power of 1 - p, p a pixel's probability of its class."
    )
    ohem_threshold: float = spec(
        float, 0.7, low=0, high=1, beyond=True, help="ohem: a pixel counts whose probability of its class is below."
    )
    ohem_fraction: float = spec(
        float, 0.0625, above=0, high=1, beyond=True, help="ohem: share of each photo's pixels that count at least."
    )
    head_lr_mult: float = spec(float, 10.0, above=0, high=100, beyond=True, help="Learning rate of the heads, times.")
    warmup_epochs: float = spec(
        float, 0.0, low=0, high=1_000_000, beyond=True, help="Epochs over which the rate rises to its base."
    )
    freeze_backbone_epochs: int = spec(
        int, 0, low=0, beyond=True, help="Epochs at the start in which only the heads are trained."
    )
    unfreeze_lr_factor: float = spec(
        float, 0.1, above=0, high=1, beyond=True, help="Learning rate after freeze_backbone_epochs, times."
    )
    max_pixels: int = spec(
        int, DEFAULT_MAX_PIXELS, low=1, high=LARGEST_MAX_PIXELS, beyond=True, help="Largest photo, in pixels."
    )
    photo_range: tuple[int, ...] = spec(
        tuple, (), item=int, low=0, high=MAX_VALUE, beyond=True,
        help='Photos of 16 bits: the values that become black and white, as "0, 4095"; none is "0, 65535".',
    )  # fmt: skip
    output_stride: int | None = spec(
        int, None, low=1, beyond=True,
        help="Pixels a side for one place of the network's output, see docs/networks.md; less is finer and slower.",
    )  # fmt: skip
    tensorboard: bool = spec(
        bool, False, beyond=True, help="Write curves for TensorBoard, too; needs gluonseg[tensorboard]."
    )

    _aux_loss: bool = spec(bool, True, help="Train the auxiliary head.")
    _aux_weight: float = spec(float, 0.5, low=0, high=10, help="Its share in the loss.")
    _workers: int = spec(int, 16, low=1, high=256, help="Threads that prepare samples (at most the usable cores).")
    _hybrid: bool = spec(bool, False, help="Accepted; networks are always compiled here.")
    _augmentation_type: str = spec(str, "default", choices=("default", "none"), help="none: centre crops only.")
    _logging_frequency: int = spec(int, 20, low=1, help="Updates between progress lines.")
    _kvstore: str = spec(str, "device", choices=("device", "local", "nccl"), help="How devices share gradients.")
    _num_kv_servers: str = spec(str, "auto", help="Accepted for compatibility; one machine trains.")

    def to_strings(self) -> dict[str, str]:
        """Every hyperparameter as SageMaker would pass it: name -> string, without those not set."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: format_value(value) for name, value in values.items() if value not in (None, ())}


def read_integer(hyperparameters: Mapping[str, str], name: str) -> int:
    """A whole number that a model was trained with; its default where the model's card does not have it."""
    field = get_specs()[name]
    value = parse_value(name, hyperparameters.get(name), field)
    return int(field.default if value is None else value)


def read_photo_range(hyperparameters: Mapping[str, Any]) -> tuple[int, ...]:
    """The ``photo_range`` of a training; empty when it had none."""
    return parse_value("photo_range", hyperparameters.get("photo_range"), get_specs()["photo_range"]) or ()


def get_specs() -> dict[str, Spec]:
    """The table: name -> specification, in order of declaration."""
    return {field.name: field.metadata["spec"] for field in dataclasses.fields(Hyperparameters)}


def describe_unknown(names: Iterable[str]) -> list[str]:
    """Say of each of ``names`` that it is not a hyperparameter, and which one was probably meant.

    The names that are near to no hyperparameter share one text at the end, which lists all valid names.
    """
    valid = [known for known in get_specs() if not known.startswith("_")]
    texts, others = [], []
    for name in names:
        nearest, shown = find_nearest(name, valid), f"{name[:100]!r}"
        if nearest:
            texts.append(f"{shown} is not a hyperparameter; did you mean {nearest}?")
        else:
            others.append(shown)
    if others:
        verb = "is not a hyperparameter" if len(others) == 1 else "are not hyperparameters"
        texts.append(f"{join_names(others)} {verb}; valid names are {', '.join(valid)}")
    return texts


def validates_whole_photos(values: Mapping[str, str]) -> bool:
    """Whether hyperparameters as strings ask for a validation on whole photos, as the built-in reads them."""
    return values.get("validation_mini_batch_size") == "1"


def parse_hyperparameters(raw: Mapping[str, Any]) -> Hyperparameters:
    """Parse strings (or plain values) into :class:`Hyperparameters`.

    Raises:
        HyperparameterError: names every problem with name, value and what is valid.
    """
    specs = get_specs()
    raw, problems = _correct_spellings(raw)
    settings = {name: one.default for name, one in specs.items()}
    given = {name: raw.get(name) for name, one in specs.items() if name in raw or one.required}
    for name, value in given.items():
        try:
            parsed = parse_value(name, value, specs[name])
        except HyperparameterError as error:
            problems.append(str(error))
        else:
            settings[name] = settings[name] if parsed is None else parsed
    problems += _find_conflicts(settings)
    # SageMaker's own names and internal ones of other versions are accepted and not used.
    unknown = [name for name in raw if name not in specs and not name.startswith(("_", "sagemaker_"))]
    # Last: it may be long, and the failure file takes the beginning.
    problems += describe_unknown(unknown)
    if problems:
        raise HyperparameterError("; ".join(problems))
    settings["loss"] = "+".join(split_loss(settings["loss"]))
    settings["crop_size"] = -(-settings["crop_size"] // CROP_MULTIPLE) * CROP_MULTIPLE
    return Hyperparameters(**settings)


def _correct_spellings(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The hyperparameters by their names, and the problems of those that are given by both spellings."""
    problems = [
        f"{other!r} is read as {name}, and {name} is given, too; give one of them"
        for other, name in OTHER_SPELLINGS.items()
        if {other, name} <= raw.keys()
    ]
    return {OTHER_SPELLINGS.get(name, name): value for name, value in raw.items()}, problems


def split_loss(loss: str) -> tuple[str, ...]:
    """The terms of the sum: ``("cross_entropy", "dice")`` of ``cross_entropy + dice``."""
    return tuple(term.strip() for term in loss.split("+"))


def _find_loss_problems(settings: Mapping[str, Any]) -> list[str]:
    """Terms that are no losses or come twice."""
    terms, problems = split_loss(settings["loss"]), []
    for term in terms:
        if term not in LOSSES:
            # By its letters "ce", as many call cross-entropy, is nearest to dice.
            nearest = "cross_entropy" if term.lower() == "ce" else find_nearest(term.lower(), LOSSES)
            hint = f" (did you mean {nearest}?)" if nearest else ""
            problems.append(
                f"loss must be one of {', '.join(LOSSES)}, or a sum of them with + between; "
                f"got {shorten(ascii(term))}{hint}"
            )
    if len(set(terms)) < len(terms):
        problems.append(f"loss has a term twice: {shorten(ascii(settings['loss']))}; give each once")
    return problems


def _find_conflicts(settings: Mapping[str, Any]) -> list[str]:
    """Pairs of values that are each valid but not together."""
    network = find_network(settings["algorithm"])
    problems = network.list_problems(settings["backbone"], settings["output_stride"])
    steps = settings["lr_scheduler_step"]
    if settings["lr_scheduler"] == "step" and not steps:
        problems.append('lr_scheduler "step" needs lr_scheduler_step, the epochs at which the rate falls, as "10, 20"')
    if list(steps) != sorted(set(steps)):
        problems.append(f'lr_scheduler_step must rise from epoch to epoch, got "{format_value(steps)}"')
    if settings["scale_min"] > settings["scale_max"]:
        problems.append(f"scale_min {settings['scale_min']} is above scale_max {settings['scale_max']}")
    largest = settings["base_size"] * settings["scale_max"]
    if largest > LARGEST_SIDE:
        problems.append(
            f"base_size {settings['base_size']} times scale_max {settings['scale_max']} is {largest:.0f}, "
            f"at most {LARGEST_SIDE} pixels"
        )
    if settings["photo_range"] and not is_photo_range(settings["photo_range"]):
        problems.append(
            f'photo_range must be two rising values, as "0, 4095", got "{format_value(settings["photo_range"])}"'
        )
    if settings["class_balanced_crops"] and settings["_augmentation_type"] == "none":
        problems.append("class_balanced_crops needs random crops, _augmentation_type none has none; leave one out")
    if settings["early_stopping"] and settings["early_stopping_patience"] < 1:
        problems.append("early_stopping_patience must be at least 1 when early_stopping is on")
    if settings["freeze_backbone_epochs"] >= settings["epochs"]:
        problems.append(
            f"freeze_backbone_epochs {settings['freeze_backbone_epochs']} must be below epochs {settings['epochs']}: "
            "after them everything is trained"
        )
    if len(settings["prediction_scales"]) > MAX_SCALES:
        problems.append(f"prediction_scales has {len(settings['prediction_scales'])} values, at most {MAX_SCALES}")
    problems += _find_loss_problems(settings)
    num_classes = settings["num_classes"]
    for name in ("class_weights", "class_names"):
        value = settings[name]
        if num_classes is not None and isinstance(value, tuple) and value and len(value) != num_classes:
            problems.append(f"{name} needs one entry a class: num_classes is {num_classes}, got {len(value)}")
    if num_classes is not None and settings["palette"]:
        problem = find_palette_problem(settings["palette"], num_classes)
        problems += [problem] if problem else []
    if len(set(settings["class_names"])) < len(settings["class_names"]):
        problems.append(f'class_names must differ from one another, got "{format_value(settings["class_names"])}"')
    return problems
