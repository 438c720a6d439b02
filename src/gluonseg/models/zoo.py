"""GluonCV's two functions that build a network, with its names and arguments, for pictures of any size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mxnet.context import Context, cpu

from gluonseg.errors import ModelError
from gluonseg.models.network import SegmentationNetwork, build_network, load_params
from gluonseg.models.params import read_params
from gluonseg.models.registry import describe_unknown, get_encoders, get_networks

DATASETS = {"pascal_voc": "voc", "pascal_aug": "voc", "ade20k": "ade", "coco": "coco", "citys": "citys"}
"""GluonCV's data set names and the short form each has in model names."""
_MODEL_NAME = re.compile(r"(?P<model>[a-z-]+)_(?P<backbone>[a-z0-9]+)_(?P<dataset>[a-z]+)")


def _list_backbones() -> dict[str, str]:
    """Our names by GluonCV's: ``resnet50`` -> ``resnet-50``."""
    return {name.replace("-", ""): name for name in get_encoders()}


def get_segmentation_model(
    model: str,
    dataset: str = "pascal_voc",
    backbone: str = "resnet50",
    pretrained: bool | str = False,
    root: str = "~/.mxnet/models",
    ctx: Context | list[Context] | None = None,
    pretrained_base: bool = True,
    nclass: int | None = None,
    base_size: int = 520,
    crop_size: int = 480,
    **kwargs: Any,
) -> SegmentationNetwork:
    """GluonCV's ``get_segmentation_model`` for networks that take any image size.

    Args:
        model: ``fcn``, ``psp``, ``deeplab`` or another network's name.
        dataset: GluonCV's name of the data set, which gives the number and the names of the classes.
        backbone: ours without hyphens: ``resnet18``, ``resnet50``, ``mobilenetv2``, ``vgg16``, ``hrnetw18``.
        pretrained: load GluonCV's published weights of the whole network from its store.
        root: folder of GluonCV's store.
        ctx: device or devices, CPU by default.
        pretrained_base: load ImageNet weights for the backbone (not when ``pretrained``).
        nclass: number of classes, instead of the data set's.
        base_size, crop_size: kept as attributes, for GluonCV's evaluation.
        kwargs: ``aux``, ``output_stride``, ``norm_layer``, ``norm_kwargs``.

    Raises:
        ModelError: an unknown name, or weights that cannot be had.
    """
    from gluoncv.data import datasets

    backbones = _list_backbones()
    for kind, name, valid in (
        ("model", model, get_networks()),
        ("backbone", backbone, backbones),
        ("dataset", dataset, DATASETS),
    ):
        if name not in valid:
            raise ModelError(f"unknown {kind} {describe_unknown(name, valid)}")
    ctx = ctx if ctx is not None else cpu()
    known = datasets[dataset]
    net = build_network(model, backbones[backbone], nclass or known.NUM_CLASS, ctx=ctx, **kwargs)
    net.base_size, net.crop_size = base_size, crop_size
    if nclass is None or nclass == known.NUM_CLASS:
        net.classes = known.CLASSES
    if pretrained:
        _load_published(net, f"{model}_{backbone}_{DATASETS[dataset]}", pretrained, root, ctx)
    elif pretrained_base:
        _load_base(net, backbones[backbone], root, ctx)
    return net


def _load_base(net: SegmentationNetwork, backbone: str, root: str, ctx: Any) -> None:
    from gluonseg.models.pretrained import find_backbone_weights, load_backbone

    weights = find_backbone_weights(backbone, channel=None, root=Path(root).expanduser())
    # The heads have values already; without force_reinit MXNet warns of each.
    net.initialize(ctx=ctx, force_reinit=True)
    load_backbone(net, weights, backbone)


def _load_published(net: SegmentationNetwork, name: str, tag: bool | str, root: str, ctx: Any) -> None:
    from gluoncv.model_zoo.model_store import get_model_file

    try:
        path = get_model_file(name, tag=tag, root=str(Path(root).expanduser()))
    except (ValueError, OSError, RuntimeError) as error:
        raise ModelError(
            f"GluonCV's weights {name} cannot be had: {error}; put {name}-*.params into {root} or use pretrained=False"
        ) from error
    load_params(net, read_params(Path(path)), ctx)


def get_model(name: str, **kwargs: Any) -> SegmentationNetwork:
    """GluonCV's ``get_model`` for names such as ``fcn_resnet50_voc``, ``psp_resnet101_ade``, ``deeplab_resnet18_coco``.

    ``kwargs`` are those of :func:`get_segmentation_model`.
    """
    found = _MODEL_NAME.fullmatch(name.lower())
    datasets = {short: full for full, short in reversed(DATASETS.items())}
    if not found or found["dataset"] not in datasets:
        raise ModelError(
            f"unknown model {name!r}; names are MODEL_BACKBONE_DATASET with MODEL one of {', '.join(get_networks())}, "
            f"BACKBONE one of {', '.join(_list_backbones())}, DATASET one of {', '.join(datasets)}"
        )
    return get_segmentation_model(
        found["model"], dataset=datasets[found["dataset"]], backbone=found["backbone"], **kwargs
    )
