"""Networks of other packages: what an entry point may bring, and what is left out with a word in the log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from gluonseg.errors import ModelError
from gluonseg.models import registry
from gluonseg.models.network import SegmentationNetwork, build_network
from gluonseg.models.registry import RESNETS, Encoder, Network, find_network, get_encoders, get_networks, get_title

OWN = [network.name for network in registry._OWN]
OWN_ENCODER = Encoder("tiny", "elsewhere:Tiny")
FPN = Network("fpn", "Semantic FPN", "elsewhere:FPN", (*RESNETS[2:3], OWN_ENCODER), output_strides=(4, 8))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of another package, whose ``NETWORK`` is an entry point."""
    module = ModuleType("elsewhere")
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    entries = [EntryPoint("fpn", "elsewhere:NETWORK", registry.ENTRY_POINTS)]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    get_networks.cache_clear()
    get_encoders.cache_clear()
    yield module
    get_networks.cache_clear()
    get_encoders.cache_clear()


def test_a_network_of_another_package_is_one_of_all(elsewhere: ModuleType) -> None:
    elsewhere.NETWORK = FPN  # type: ignore[attr-defined]
    assert list(get_networks()) == [*OWN, "fpn"]
    assert "tiny" in get_encoders()
    assert (get_title("fpn"), get_title("other")) == ("Semantic FPN", "other")
    assert find_network("fpn").list_problems("resnet-18", 8) == []
    assert find_network("fpn").list_problems("resnet-50", 16) == [
        "fpn has no backbone 'resnet-50' (did you mean resnet-18?); valid ones: resnet-18, tiny; "
        f"resnet-50 goes with {', '.join(name for name in OWN if name != 'hrnet')}",
        "output_stride of fpn must be 4 or 8; got 16",
    ]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (None, "it cannot be loaded: module 'elsewhere' has no attribute 'NETWORK'"),
        ("fpn", "it is no gluonseg.models.registry.Network but a str"),
        (Network("fcn", "FCN", "elsewhere:FCN", RESNETS), "there is a network fcn already"),
        (Network("fpn", "FPN", "elsewhere:FPN", (Encoder("resnet-18", "x:y"),)), "there is another encoder resnet-18"),
    ],
)
def test_what_cannot_be_used_is_left_out(
    elsewhere: ModuleType, network: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    if network is not None:
        elsewhere.NETWORK = network  # type: ignore[attr-defined]
    assert list(get_networks()) == OWN
    assert f"The network fpn of the entry point elsewhere:NETWORK is left out: {words}" in caplog.text


class _Undeclared(SegmentationNetwork):
    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        import mxnet as mx

        self.decoder = mx.gluon.nn.Conv2D(num_classes, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": ("head.",), "has_auxiliary": False}, "fpn has the head decoder; its declaration"),
        ({"heads": ("decoder.",)}, "fpn has no auxlayer; its declaration must say has_auxiliary=False"),
        ({"output_strides": (4,)}, r"resnet-18 has the output strides 32, 16, 8, not 4; .* sets encoder_stride"),
        ({"build": "elsewhere:Nothing"}, "elsewhere:Nothing, which a network's declaration names, cannot be loaded"),
    ],
)
def test_a_network_that_is_not_as_declared(elsewhere: ModuleType, changes: dict[str, Any], words: str) -> None:
    declared = {"output_strides": (8,), "build": "elsewhere:FPN", **changes}
    declared["class_heads"] = declared.get("heads", ("head.",))
    elsewhere.NETWORK = Network("fpn", "FPN", encoders=RESNETS, **declared)  # type: ignore[attr-defined]
    elsewhere.FPN = _Undeclared  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=words):
        build_network("fpn", "resnet-18", 2)


@pytest.mark.parametrize(
    "changes",
    [{"heads": "h."}, {"class_heads": ("other.",)}, {"output_strides": (3,)}],
)
def test_a_declaration_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Network("fpn", "FPN", "elsewhere:FPN", **{"encoders": RESNETS, **changes})
