"""What all segmentation networks share: an encoder, a head, perhaps an auxiliary head, and pictures of any size.

GluonCV's own network classes cannot be used as they are: their heads are built for 2048 channels (ResNet-18 and 34
have 512), and they keep the size to enlarge to as an attribute, so that PSPNet and DeepLabV3 fail on any other size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gluoncv.model_zoo.fcn import _FCNHead
from mxnet import ndarray
from mxnet.gluon import nn

from gluonseg.errors import ModelError
from gluonseg.models.registry import Network, find_encoder, find_network, load_object
from gluonseg.text import escape_line

HEAD_LR_MULT = 10
"""GluonCV trains head and auxiliary head at ten times the learning rate."""


def resize_like(F: Any, x: Any, reference: Any, *, align_corners: bool = True) -> Any:
    """Bilinear resize of x (N, C, h, w) to the height and width of ``reference``."""
    return F.contrib.BilinearResize2D(x, reference, mode="like", align_corners=align_corners)


class SegmentationNetwork(nn.HybridBlock):  # type: ignore[misc]
    """An encoder with heads. A network is a subclass that builds its heads; see :mod:`gluonseg.models.fcn`.

    Input: float32 (N, 3, H, W), RGB, normalised by ImageNet's mean and deviation, any H and W of at least 8.
    Output: a tuple of logits (N, num_classes, H, W), the head's first, then (``aux``) the auxiliary head's.
    It holds no state besides its parameters; those of the encoder have the names that they have in GluonCV.
    """

    encoder_stride: int | None = None
    """Output stride of the encoder where it differs from that of the logits: UNet enlarges the encoder's features."""
    encoder_stages: int | None = None
    """Stages of the encoder that are used, where not all are."""

    def __init__(
        self,
        network: Network,
        backbone: str,
        nclass: int,
        *,
        aux: bool = True,
        output_stride: int | None = None,
        norm_layer: Any = nn.BatchNorm,
        norm_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.nclass = nclass
        self.aux = aux and network.has_auxiliary
        self.output_stride = output_stride or network.output_strides[0]
        self._align_corners = network.align_corners
        norm = {"norm_layer": norm_layer, "norm_kwargs": norm_kwargs}
        with self.name_scope():
            build_encoder = load_object(find_encoder(backbone).build)
            stages = {"stages": self.encoder_stages} if self.encoder_stages else {}
            encoder = build_encoder(backbone, self.encoder_stride or self.output_stride, **stages, **norm)
            # The parts, and not the encoder, become children: so their parameters have GluonCV's names.
            for part in encoder.parts:
                setattr(self, part, getattr(encoder, part))
            self.encode = encoder.__call__
            self.build_heads(encoder.channels, nclass, **norm)
        self._check_heads(network, encoder.parts)

    def _check_heads(self, network: Network, parts: tuple[str, ...]) -> None:
        """Raise ModelError when what was built is not what the network's declaration says."""
        declared = {head.partition(".")[0] for head in network.heads}
        undeclared = [name for name in self._children if name not in (*parts, *declared)]
        if undeclared:
            raise ModelError(f"{network.name} has the head {undeclared[0]}; its declaration must list it in heads")
        if self.aux and not hasattr(self, "auxlayer"):
            raise ModelError(f"{network.name} has no auxlayer; its declaration must say has_auxiliary=False")

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        """Set the blocks behind the encoder as attributes, named as the declaration's ``heads``.

        ``channels`` are those of the features, ``norm`` is GluonCV's ``norm_layer`` and ``norm_kwargs``. The
        default adds only the auxiliary head; a subclass that has one calls it through ``super()``.
        """
        if self.aux:
            self.auxlayer = _FCNHead(channels[-2], num_classes, **norm)

    def decode(self, features: list[Any]) -> Any:
        """Logits (N, num_classes, ceil(H / output_stride), ceil(W / output_stride)) from the encoder's features.

        Without an override: ``self.head``, which ``build_heads`` sets, of the last features.
        """
        return self.head(features[-1])

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, ...]:
        return tuple(self._enlarge(F, output, x) for output in self.forward_coarse(x))

    def _enlarge(self, F: Any, output: Any, x: Any) -> Any:
        return output if self.output_stride == 1 else resize_like(F, output, x, align_corners=self._align_corners)

    def forward_coarse(self, x: Any) -> tuple[Any, ...]:
        """The outputs before they are enlarged, see :meth:`decode`; the auxiliary head's second, if there is one."""
        features = self.encode(x)
        output = self.decode(features)
        return (output, self.auxlayer(features[-2])) if self.aux else (output,)

    def predict_coarse(self, x: Any) -> Any:
        """Logits of the head alone, not enlarged, see :meth:`decode`."""
        return self.decode(self.encode(x))

    def predict(self, x: Any) -> Any:
        """Logits (N, num_classes, H, W) of the head alone, for a batch of any size."""
        return self._enlarge(ndarray, self.predict_coarse(x), x)

    demo = predict

    def evaluate(self, x: Any) -> Any:
        """The head's logits, as GluonCV's evaluation asks for them."""
        return self(x)[0]


class CoarseNetwork(nn.HybridBlock):  # type: ignore[misc]
    """``network`` without the enlargement at its end, to be compiled by itself; the parameters are the same ones."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def hybrid_forward(self, _F: Any, x: Any) -> tuple[Any, ...]:
        return self.network.forward_coarse(x)


def build_network(
    algorithm: str, backbone: str, num_classes: int, *, ctx: Any = None, **options: Any
) -> SegmentationNetwork:
    """Build a network by SageMaker's names (``fcn``, ``resnet-50``); only its heads have values, random ones.

    ``options`` are ``aux``, ``output_stride``, and GluonCV's ``norm_layer`` and ``norm_kwargs``. Raises ModelError for
    an unknown name, a backbone or an output stride that the network does not take.
    """
    declaration = find_network(algorithm)
    problems = declaration.list_problems(backbone, options.get("output_stride"))
    if problems:
        raise ModelError("; ".join(problems))
    network: SegmentationNetwork = load_object(declaration.build)(declaration, backbone, num_classes, **options)
    for name in dict.fromkeys(head.partition(".")[0] for head in declaration.heads):
        head = getattr(network, name, None)  # an auxiliary head may be left out
        if head is not None:
            head.initialize(ctx=ctx)
            head.collect_params().setattr("lr_mult", HEAD_LR_MULT)
    return network


def set_parameters(parameters: Mapping[str, Any], arrays: Mapping[str, Any], ctx: Any) -> None:
    """Give each of ``parameters`` its value from ``arrays`` (structural name -> NDArray) on ``ctx``, in its own dtype.

    Raises ModelError, naming the parameter, when one is missing, left over or of another shape; then nothing has been
    changed.
    """
    missing, extra = sorted(parameters.keys() - arrays.keys()), sorted(arrays.keys() - parameters.keys())
    if missing or extra:
        problem = "is missing" if missing else "is not known"
        raise ModelError(f"the parameters do not fit: {escape_line((missing or extra)[0])} {problem}")
    for name, array in arrays.items():
        expected, found = parameters[name].shape, array.shape
        # 0 is a size that MXNet has not worked out yet.
        if len(expected) != len(found) or any(e not in (0, f) for e, f in zip(expected, found, strict=True)):
            raise ModelError(f"the parameter {name} has shape {found}, not {expected}")
    for name, parameter in parameters.items():
        parameter._load_init(arrays[name], ctx, cast_dtype=True, dtype_source="current")


def load_params(network: SegmentationNetwork, params: Mapping[str, Any], ctx: Any) -> None:
    """Give every parameter of ``network`` its value; see :func:`set_parameters`."""
    set_parameters(network._collect_params_with_prefix(), params, ctx)
