"""The whole set: CONTRACT's defaults and ranges, unknown names, conflicts, the generated page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gluonseg.errors import HyperparameterError
from gluonseg.hyperparameters import Hyperparameters, get_specs, parse_hyperparameters
from gluonseg.report.hyperparameter_table import format_table

BUILTIN_DEFAULTS: dict[str, Any] = {
    "backbone": "resnet-50",
    "algorithm": "fcn",
    "use_pretrained_model": True,
    "crop_size": 240,
    "epochs": 10,
    "learning_rate": 0.001,
    "optimizer": "sgd",
    "lr_scheduler": "poly",
    "lr_scheduler_factor": 0.1,
    "weight_decay": 0.0001,
    "momentum": 0.9,
    "gamma1": 0.9,
    "gamma2": 0.9,
    "mini_batch_size": 16,
    "validation_mini_batch_size": 16,
    "early_stopping": False,
    "early_stopping_min_epochs": 5,
    "early_stopping_patience": 4,
    "early_stopping_tolerance": 0.0,
    "precision_dtype": "float32",
    "syncbn": False,
    "base_size": 520,
    "lr_scheduler_step": (),
    "_kvstore": "device",
    "_num_kv_servers": "auto",
    "_workers": 16,
    "_aux_loss": True,
    "_aux_weight": 0.5,
    "_hybrid": False,
    "_augmentation_type": "default",
    "_logging_frequency": 20,
}
"""What the built-in prints as its default configuration, and base_size as documented."""

RANGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "num_classes": (("2", "254"), ("1", "255", "2.5")),
    "algorithm": (("fcn", "psp", "deeplab"), ("vnet",)),
    "backbone": (("resnet-18", "resnet-34", "resnet-50", "resnet-101", "resnet-152"), ("resnet50", "resnet-200")),
    "use_pretrained_model": (("True", "false"), ("maybe",)),
    "num_training_samples": (("1", "1000000"), ("0", "-1")),
    "crop_size": (("17", "480"), ("16",)),
    "base_size": (("17", "2048"), ("16",)),
    "epochs": (("1", "1e3"), ("0",)),
    "learning_rate": (("1e-9", "1"), ("0", "1.1", "-0.1")),
    "optimizer": (("sgd", "adam", "nag", "rmsprop", "adagrad", "adadelta"), ("adamw",)),
    "lr_scheduler": (("poly", "cosine"), ("linear",)),
    "lr_scheduler_factor": (("0", "1"), ("-0.1", "1.1")),
    "lr_scheduler_step": (("1", "10, 20"), ("0", "a")),
    "weight_decay": (("0", "0.999"), ("1", "-1e-4")),
    "momentum": (("0", "1"), ("1.01", "-0.1")),
    "gamma1": (("0", "1"), ("-0.1", "1.1")),
    "gamma2": (("0", "1"), ("-0.1", "1.1")),
    "mini_batch_size": (("1", "128", "256"), ("0",)),
    "validation_mini_batch_size": (("1", "64"), ("0",)),
    "early_stopping": (("1", "no"), ("2",)),
    "early_stopping_min_epochs": (("0", "100"), ("-1",)),
    "early_stopping_patience": (("0", "100"), ("-1",)),
    "early_stopping_tolerance": (("0", "1"), ("-0.1", "1.5")),
    "precision_dtype": (("float32", "float16"), ("bfloat16",)),
    "syncbn": (("true", "False"), ("sync",)),
    "class_weights": (("balanced", "1, 2.5", "[0.1, 10]"), ("0, 1", "-1, 1", "even")),
    "photo_range": (("0, 4095", "[100, 200]"), ("0, 65536", "-1, 5")),
    "prediction_scales": (("1", "0.1, 4", "[0.75, 1.25]"), ("0.05", "1, 5", "big")),
    "max_pixels": (("1", "178956970"), ("0", "178956971")),
    "_aux_loss": (("True", "False"), ("half",)),
    "_aux_weight": (("0", "10"), ("-1", "11")),
    "_workers": (("1", "256"), ("0", "257")),
    "_hybrid": (("True",), ("x",)),
    "_augmentation_type": (("default", "none"), ("strong",)),
    "_logging_frequency": (("1", "1000"), ("0",)),
    "_kvstore": (("device", "local", "nccl"), ("dist_sync",)),
    "_num_kv_servers": (("auto", "2"), ("",)),
}
"""Valid and invalid values of every hyperparameter that the built-in has, and of some that it does not have."""


def _parse(**values: Any) -> Hyperparameters:
    return parse_hyperparameters({"num_classes": "2", **values})


def test_defaults_are_those_of_the_builtin() -> None:
    """The built-in's 8 training samples are a trap: here the photos are counted."""
    found = dataclasses.asdict(_parse())
    assert {name: found[name] for name in BUILTIN_DEFAULTS} == BUILTIN_DEFAULTS
    added = {name for name, one in get_specs().items() if one.beyond}
    assert added == found.keys() - BUILTIN_DEFAULTS.keys() - {"num_classes", "num_training_samples"}
    assert RANGES.keys() | added == get_specs().keys()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, pair in RANGES.items() for value in pair[0]])
def test_within_range(name: str, value: str) -> None:
    found = getattr(_parse(**{name: value}), name)
    assert found is not None
    assert isinstance(found, get_specs()[name].kind) or found == "balanced"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, pair in RANGES.items() for value in pair[1]])
def test_out_of_range(name: str, value: str) -> None:
    with pytest.raises(HyperparameterError, match=f"^{name} (must be|is empty)"):
        _parse(**{name: value})


def test_defaults_are_within_their_own_ranges() -> None:
    again = parse_hyperparameters(_parse().to_strings())
    assert again == _parse()


@pytest.mark.parametrize(("given", "used"), [("17", 24), ("24", 24), ("240", 240), ("241", 248), ("240.0", 240)])
def test_crop_size_is_rounded_up_to_a_multiple_of_8(given: str, used: int) -> None:
    assert _parse(crop_size=given).crop_size == used


def test_aws_own_misspelling_is_taken() -> None:
    assert _parse(optimzer='"adam"').optimizer == "adam"
    with pytest.raises(HyperparameterError, match=r"^optimizer must be one of sgd, .* got 'adamw'"):
        _parse(optimzer="adamw")
    with pytest.raises(HyperparameterError, match=r"^'optimzer' is read as optimizer, and optimizer is given, too"):
        _parse(optimzer="adam", optimizer="adam")


def test_not_given_means_default() -> None:
    assert _parse(num_training_samples="None", lr_scheduler_step="", epochs=None) == _parse()


@pytest.mark.parametrize("name", ["_tuning_objective_metric", "_other", "sagemaker_program", "sagemaker_region"])
def test_names_of_sagemaker_itself_are_passed_over(name: str) -> None:
    assert _parse(**{name: "anything at all"}) == _parse()


def test_many_unknown_names_list_all_once_after_what_else_is_wrong() -> None:
    """The failure file has room for one list."""
    with pytest.raises(HyperparameterError) as caught:
        _parse(zzz="1", epoch="3", learning_rate="fast", **{f"xx{number}yy": "1" for number in range(20)})
    text = str(caught.value)
    assert text.index("learning_rate must be") < text.index("'epoch' is not a hyperparameter; did you mean epochs?")
    assert text.index("did you mean") < text.index("'zzz', 'xx0yy', ")
    assert "'xx8yy' and 11 more are not hyperparameters; valid names are num_classes, algorithm, " in text
    assert text.count("valid names are") == 1
    assert len(text) < 1500


def test_all_problems_at_once() -> None:
    with pytest.raises(HyperparameterError) as caught:
        parse_hyperparameters(
            {"epochs": "0", "learning_rate": "fast", "backbon": "resnet-18", "lr_scheduler": "step", "scale_min": "3"}
        )
    text = str(caught.value)
    for part in (
        "num_classes is required",
        "epochs must be",
        "learning_rate must be",
        "'backbon'",
        "lr_scheduler_step",
        "scale_min",
    ):
        assert text.count(part) >= 1, part
    assert "\n" not in text


@pytest.mark.parametrize("raw", [{}, {"num_classes": "None"}, {"num_classes": None}])
def test_num_classes_is_required_and_said_once(raw: dict[str, Any]) -> None:
    with pytest.raises(HyperparameterError) as caught:
        parse_hyperparameters(raw)
    assert str(caught.value) == "num_classes is required"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_scheduler": "step"}, "needs lr_scheduler_step"),
        ({"lr_scheduler_step": "20, 10"}, 'must rise from epoch to epoch, got "20, 10"'),
        ({"lr_scheduler_step": "10, 10"}, "must rise"),
        ({"scale_min": "2", "scale_max": "1"}, "scale_min 2.0 is above scale_max 1.0"),
        ({"early_stopping": "True", "early_stopping_patience": "0"}, "early_stopping_patience must be at least 1"),
        ({"class_weights": "1, 2, 3"}, "class_weights needs one entry a class: num_classes is 2, got 3"),
        ({"class_balanced_crops": "1", "_augmentation_type": "none"}, "class_balanced_crops needs random crops"),
        ({"photo_range": "4095"}, 'photo_range must be two rising values, as "0, 4095", got "4095"'),
        ({"photo_range": "9, 3"}, 'photo_range must be two rising values, as "0, 4095", got "9, 3"'),
        ({"prediction_scales": ", ".join(["1"] * 11)}, "prediction_scales has 11 values, at most 10"),
        ({"loss": "dise"}, r"one of cross_entropy, dice, focal, ohem, or a sum .* got 'dise' \(did you mean dice\?\)"),
        ({"loss": "dice+ce"}, r"got 'ce' \(did you mean cross_entropy\?\)"),
        ({"loss": "cross_entropy+"}, "got ''$"),
        ({"loss": "dice+dice"}, "loss has a term twice: 'dice\\+dice'; give each once"),
        ({"loss": "dice", "num_classes": "1"}, "num_classes must be a whole number, at least 2"),
        ({"class_names": "pet, pet"}, 'class_names must differ from one another, got "pet, pet"'),
        ({"class_names": "pet"}, "class_names needs one entry a class: num_classes is 2, got 1"),
    ],
)
def test_values_that_do_not_go_together(values: dict[str, str], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        _parse(**values)


def test_values_that_go_together() -> None:
    hp = _parse(lr_scheduler="step", lr_scheduler_step="2, 4", class_weights="1, 2", class_names="a, b", scale_min="2")
    assert _parse(loss="focal + dice", focal_gamma="1").loss == "focal+dice"
    assert (hp.lr_scheduler_step, hp.class_weights, hp.class_names) == ((2, 4), (1.0, 2.0), ("a", "b"))


def test_the_page_is_the_table(repo_root: Path) -> None:
    page = (repo_root / "docs/hyperparameters.md").read_text(encoding="utf-8")
    assert page.rstrip("\n") == format_table(), "run: gluonseg hyperparameters > docs/hyperparameters.md"
    for name in get_specs():
        assert page.count(f"| `{name}`") == 1
