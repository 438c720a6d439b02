"""GluonCV's functions that build a network: its names, its arguments, its weights."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import pytest
from gluoncv.data import datasets

import gluonseg
from gluonseg.errors import ModelError
from gluonseg.models.zoo import get_model, get_segmentation_model
from network_tester import assert_close, build_stirred, draw_batch


@pytest.mark.parametrize(
    ("name", "kind", "dataset"),
    [
        ("PSP_ResNet18_ADE", "PSPNet", "ade20k"),
        ("deeplab_resnet34_coco", "DeepLabV3", "coco"),
        ("upernet-lite_mobilenetv2_ade", "UPerNetLite", "ade20k"),
    ],
)
def test_get_model_takes_gluoncvs_names(name: str, kind: str, dataset: str) -> None:
    network = get_model(name, pretrained_base=False)
    assert type(network).__name__ == kind
    assert network.nclass == datasets[dataset].NUM_CLASS
    assert network.classes == datasets[dataset].CLASSES


def test_get_segmentation_model_takes_gluoncvs_arguments() -> None:
    assert gluonseg.get_segmentation_model is get_segmentation_model
    assert gluonseg.get_model is get_model
    network = get_segmentation_model(
        "fcn", dataset="ade20k", backbone="resnet18", pretrained=False, root="~/nowhere", ctx=mx.cpu(0),
        pretrained_base=False, nclass=7, aux=False, base_size=300, crop_size=200,
        norm_layer=mx.gluon.nn.BatchNorm, norm_kwargs={"epsilon": 1e-3},
    )  # fmt: skip
    network.initialize(force_reinit=True)
    assert network.predict(draw_batch(16, 16)).shape == (1, 7, 16, 16)
    assert (network.base_size, network.crop_size, network.aux) == (300, 200, False)
    assert not hasattr(network, "classes")


def test_pretrained_base_loads_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = build_stirred("fcn", "resnet-18")
    trained.save_parameters(str(tmp_path / "resnet18_v1b.params"))
    monkeypatch.setenv("GLUONSEG_PRETRAINED_DIR", str(tmp_path))
    network = get_segmentation_model("psp", backbone="resnet18", nclass=3)
    batch = draw_batch(24, 24)
    for found, expected in zip(network.encode(batch), trained.encode(batch), strict=True):
        assert_close(found, expected, 0)
    assert network.predict(batch).shape == (1, 3, 24, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "fnc"}, r"unknown model 'fnc' \(did you mean fcn\?\); valid ones: fcn, psp, deeplab"),
        ({"model": "fcn", "backbone": "resnet-50"}, r"unknown backbone 'resnet-50' \(did you mean resnet50\?\)"),
        ({"model": "fcn", "dataset": "voc"}, r"unknown dataset 'voc'.*pascal_voc"),
    ],
)
def test_unknown_names(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        get_segmentation_model(**arguments, pretrained_base=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fcn_resnet50", r"names are MODEL_BACKBONE_DATASET with MODEL one of fcn, psp, deeplab"),
        ("fcn_resnet50_imagenet", r"names are MODEL_BACKBONE_DATASET"),
        ("fcn_resnet20_voc", "unknown backbone 'resnet20'"),
    ],
)
def test_unknown_model_names(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        get_model(name)
