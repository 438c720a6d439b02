"""Where a job's parameters start from: random values, ImageNet weights, or an earlier model."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

from gluonseg.errors import ModelError
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.models.folder.artifact import ModelArtifact
from gluonseg.models.network import build_network, load_params
from gluonseg.models.pretrained import load_backbone
from gluonseg.models.registry import find_network

_log = logging.getLogger(__name__)


def build_start_network(
    hyperparameters: Hyperparameters, devices: Sequence[Any], start: ModelArtifact | Path | None = None
) -> Any:
    """Build the network on ``devices`` with its starting values.

    Every parameter gets a random value first (He et al., 2015, made for ReLU networks). Then ``start`` replaces them:
    an earlier model all that fit, a file of weights those of the backbone.
    """
    hp, ctx = hyperparameters, list(devices)
    for seed in (mx.random.seed, np.random.seed, random.seed):  # MXNet draws, and GluonCV with Python and numpy
        seed(hp.seed)
    norm = {}
    if hp.syncbn and len(ctx) > 1:
        norm = {"norm_layer": mx.gluon.contrib.nn.SyncBatchNorm, "norm_kwargs": {"num_devices": len(ctx)}}
    network = build_network(
        hp.algorithm, hp.backbone, hp.num_classes, aux=hp._aux_loss, output_stride=hp.output_stride, ctx=ctx, **norm
    )
    initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)
    network.initialize(initializer, ctx=ctx, force_reinit=True)
    for name, parameter in network._collect_params_with_prefix().items():
        if name.startswith(find_network(hp.algorithm).heads):
            parameter.lr_mult = hp.head_lr_mult
    if isinstance(start, ModelArtifact):
        load_artifact(network, start, hp)
    elif start:
        load_backbone(network, start, hp.backbone)
    elif hp.freeze_backbone_epochs:
        _log.warning(
            "freeze_backbone_epochs is %d, but the backbone starts from random values, which freezing keeps; "
            "set use_pretrained_model to True, give a model channel, or leave freeze_backbone_epochs out",
            hp.freeze_backbone_epochs,
        )
    if hp.precision_dtype != "float32":
        network.cast(hp.precision_dtype)
    network.hybridize(static_alloc=True)
    # From this call MXNet knows all shapes, and draws the random values: before the first batch.
    network(mx.nd.zeros((1, 3, 16, 16), ctx=ctx[0], dtype=hp.precision_dtype))
    mx.nd.waitall()
    return network


def load_artifact(network: Any, artifact: ModelArtifact, hp: Hyperparameters) -> None:
    """Take over all parameters of an earlier model; not the class heads when the number of classes differs.

    Raises ModelError when the model is of another algorithm or backbone, or lacks a parameter.
    """
    card = artifact.card
    if (card.algorithm, card.backbone) != (hp.algorithm, hp.backbone):
        raise ModelError(
            f"the model channel holds {card.algorithm} on {card.backbone}, the hyperparameters ask for "
            f"{hp.algorithm} on {hp.backbone}; set algorithm and backbone to those of the model"
        )
    parameters = network._collect_params_with_prefix()
    declaration = find_network(hp.algorithm)
    heads = {name: one.data() for name, one in parameters.items() if name.startswith(declaration.heads)}
    fitting = {name: value for name, value in artifact.params.items() if name in parameters}
    if card.num_classes != hp.num_classes:
        _log.warning(
            "The model channel has %d classes, num_classes is %d: the parameters %s start from random values, "
            "all others from the model",
            card.num_classes,
            hp.num_classes,
            " and ".join(f"{head}*" for head in declaration.class_heads),
        )
        fitting = {name: value for name, value in fitting.items() if not name.startswith(declaration.class_heads)}
    # An auxiliary head that the model lacks keeps its random values.
    load_params(network, {**heads, **fitting}, next(iter(parameters.values())).list_ctx())
