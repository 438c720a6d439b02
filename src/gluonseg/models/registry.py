"""Building networks by name: SageMaker's names, and GluonCV's two functions with their arguments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mxnet.context import Context, cpu

from gluonseg.errors import ModelError, find_nearest, join_names
from gluonseg.models.network import FCN, DeepLabV3, PSPNet, SegmentationNetwork, load_params
from gluonseg.models.params_file import read_params

NETWORKS: dict[str, type[SegmentationNetwork]] = {"fcn": FCN, "psp": PSPNet, "deeplab": DeepLabV3}
GLUONCV_BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
DATASETS = {"pascal_voc": "voc", "pascal_aug": "voc", "ade20k": "ade", "coco": "coco", "citys": "citys"}
"""GluonCV's data set names and the short form each has in model names."""
_MODEL_NAME = re.compile(r"(?P<model>[a-z]+)_(?P<backbone>resnet\d+)_(?P<dataset>[a-z]+)")


def _check_name(kind: str, name: str, valid: tuple[str, ...]) -> None:
    if name not in valid:
        nearest = find_nearest(name, valid)
        hint = f" (did you mean {nearest}?)" if nearest else ""
        raise ModelError(f"unknown {kind} {name!r}{hint}; valid ones: {join_names(valid, limit=100)}")


def build_network(
    algorithm: str, backbone: str, num_classes: int, *, aux: bool = True, ctx: Any = None, **norm: Any
) -> SegmentationNetwork:
    """Build a network by SageMaker's names (``fcn``, ``resnet-50``), its backbone without values.

    ``norm`` is GluonCV's ``norm_layer`` and ``norm_kwargs``. Raises ModelError for an unknown name.
    """
    _check_name("algorithm", algorithm, tuple(NETWORKS))
    gluoncv_backbone = backbone.replace("-", "")
    _check_name("backbone", gluoncv_backbone, GLUONCV_BACKBONES)
    return NETWORKS[algorithm](num_classes, gluoncv_backbone, aux=aux, ctx=ctx, pretrained_base=False, **norm)


def get_segmentation_model(
    model: str,
    dataset: str = "pascal_voc",
    backbone: str = "resnet50",
    pretrained: bool | str = False,
    root: str = "~/.mxnet/models",
    ctx: Context | list[Context] | None = None,
    pretrained_base: bool = True,
    nclass: int | None = None,
    **kwargs: Any,
) -> SegmentationNetwork:
    """GluonCV's ``get_segmentation_model`` for networks that take any image size.

    Args:
        model: ``fcn``, ``psp`` or ``deeplab``.
        dataset: GluonCV's name of the data set, which gives the number and the names of the classes.
        backbone: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101`` or ``resnet152``.
        pretrained: load GluonCV's published weights of the whole network from its store.
        root: folder of GluonCV's store.
        ctx: device or devices, CPU by default.
        pretrained_base: load ImageNet weights for the backbone (not when ``pretrained``).
        nclass: number of classes, instead of the data set's.
        kwargs: ``aux``, ``base_size``, ``crop_size``, ``norm_layer``, ``norm_kwargs``.

    Raises:
        ModelError: an unknown name, or weights that cannot be had.
    """
    from gluoncv.data import datasets

    _check_name("model", model, tuple(NETWORKS))
    _check_name("backbone", backbone, GLUONCV_BACKBONES)
    _check_name("dataset", dataset, tuple(DATASETS))
    ctx = ctx if ctx is not None else cpu()
    known = datasets[dataset]
    base = bool(pretrained_base) and not pretrained
    net = NETWORKS[model](nclass or known.NUM_CLASS, backbone, ctx=ctx, pretrained_base=False, **kwargs)
    if nclass is None or nclass == known.NUM_CLASS:
        net.classes = known.CLASSES
    if base:
        _load_base(net, backbone, root, ctx)
    if pretrained:
        _load_published(net, f"{model}_{backbone}_{DATASETS[dataset]}", pretrained, root, ctx)
    return net


def _load_base(net: SegmentationNetwork, backbone: str, root: str, ctx: Any) -> None:
    from gluonseg.models.pretrained import find_backbone_weights, load_backbone

    name = backbone.replace("resnet", "resnet-")
    weights = find_backbone_weights(name, channel=None, root=Path(root).expanduser())
    # force_reinit: the heads have values already, of which MXNet would warn one by one.
    net.initialize(ctx=ctx, force_reinit=True)
    load_backbone(net, weights, name)


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
            f"unknown model {name!r}; names are MODEL_BACKBONE_DATASET with MODEL one of {', '.join(NETWORKS)}, "
            f"BACKBONE one of {', '.join(GLUONCV_BACKBONES)}, DATASET one of {', '.join(datasets)}"
        )
    return get_segmentation_model(
        found["model"], dataset=datasets[found["dataset"]], backbone=found["backbone"], **kwargs
    )
