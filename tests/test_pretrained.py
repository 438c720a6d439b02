"""Where pretrained weights are found, and that they arrive in a segmentation network."""

from __future__ import annotations

import hashlib
import socket
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import gluonseg.compat  # noqa: F401
from backbone_array import Arrays, draw_arrays
from gluonseg.errors import FAILURE_LIMIT, ModelError
from gluonseg.models import pretrained
from gluonseg.models.convert import build_backbone
from gluonseg.models.params import write_params
from gluonseg.models.pretrained import find_backbone_weights, load_backbone
from gluonseg.models.torch_names import compute_torch_name
from local_server import find_free_port

PUBLISHED_18 = "resnet18_v1b-2d9d980c.params"


@pytest.fixture(scope="module")
def arrays18() -> Arrays:
    return draw_arrays("resnet-18")


@pytest.fixture(scope="module")
def weights18(arrays18: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / PUBLISHED_18
    write_params(arrays18, path)
    return path


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder but those of the test, and a store whose port nobody listens on."""
    monkeypatch.setenv("MXNET_GLUON_REPO", f"http://127.0.0.1:{find_free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(pretrained.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(pretrained, "IMAGE_FOLDER", tmp_path / "image")


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"content is not looked at")
    return folder


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("resnet-50", "resnet50_v1s-25a187fa.params"),
        ("resnet-50", "resnet-50.params"),
        ("resnet-34", "resnet34-b627a593.safetensors"),
        ("resnet-50", "model.safetensors"),
        ("resnet-18s", "resnet18-imagenet.safetensors"),
        ("mobilenet", "mobilenet1.0-efbb2ca3.params"),
        ("mobilenet-v2", "mobilenet_v2-7ebf99e0.safetensors"),
        ("vgg-16", "vgg16_bn.tv_in1k.safetensors"),
        ("hrnet-w18", "hrnet_w18_cls-5c6d6de4.params"),
    ],
)
def test_file_names_that_are_taken(tmp_path: Path, backbone: str, name: str) -> None:
    channel = put(tmp_path / "channel", name, "README.md")
    assert find_backbone_weights(backbone, channel=channel) == channel / name


@pytest.mark.parametrize(
    ("backbone", "files"),
    [("resnet-18s", r"resnet-18s\.params or resnet-18s\.safetensors"), ("mobilenet", r"mobilenet\.params")],
)
def test_backbones_without_a_hub_or_a_store_say_where_weights_can_be(tmp_path: Path, backbone: str, files: str) -> None:
    with pytest.raises(ModelError, match=rf"\(1\) put {files} into a channel"):
        find_backbone_weights(backbone, channel=None, root=tmp_path)


@pytest.mark.parametrize("backbone", ["mobilenet", "mobilenet-v2", "vgg-16", "hrnet-w18"])
def test_params_of_gluoncvs_classifier(tmp_path: Path, backbone: str) -> None:
    """Its classifier is left out; the real VGG's has 120 million parameters, here it has one."""
    arrays = draw_arrays(backbone)
    extra = [name for name in build_backbone(backbone)._collect_params_with_prefix() if name not in arrays]
    write_params({**arrays, **{name: np.ones(1, np.float32) for name in extra}}, tmp_path / "x.params")
    assert extra
    assert pretrained.read_backbone(tmp_path / "x.params", backbone).keys() == arrays.keys()


@pytest.mark.parametrize("name", ["resnet18d.ra2_in1k.safetensors", "resnet18-f37072fd.pth"])
def test_files_of_other_networks_are_left_alone(tmp_path: Path, name: str) -> None:
    channel = put(tmp_path / "channel", name)
    with pytest.raises(ModelError, match=f"only {name}"):
        find_backbone_weights("resnet-18", channel=channel, root=tmp_path)


def test_order_of_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = put(tmp_path / "image", "resnet-18.params")
    assert find_backbone_weights("resnet-18", channel=None).parent == image
    named = put(tmp_path / "named", "resnet-18.params")
    monkeypatch.setenv(pretrained.FOLDER_VARIABLE, str(named))
    assert find_backbone_weights("resnet-18", channel=None).parent == named
    channel = put(tmp_path / "channel", "model.safetensors")
    assert find_backbone_weights("resnet-18", channel=channel).parent == channel
    put(channel, "resnet-18.params")
    assert find_backbone_weights("resnet-18", channel=channel).name == "resnet-18.params"


def test_nothing_anywhere_fails_fast_with_three_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pretrained.FOLDER_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(ModelError) as caught:
        find_backbone_weights("resnet-50", channel=put(tmp_path / "channel"), root=tmp_path / "store")
    text = str(caught.value)
    for expected in ("resnet-50.params", "use_pretrained_model=False", "MXNET_GLUON_REPO", "(3)"):
        assert expected in text
    for place in (f"{tmp_path}/channel: no files", f"{tmp_path}/absent: no such folder", "ConnectionError"):
        assert place in text
    assert text.index("(3)") < FAILURE_LIMIT - 200
    assert not list(tmp_path.rglob("*.zip"))


def test_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "READ_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MXNET_GLUON_REPO", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(ModelError, match="ReadTimeout"):
            find_backbone_weights("resnet-18", channel=None, root=tmp_path)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path, weights18: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real HTTP server with a GluonCV store of one file; yields the folder that it serves."""
    folder = tmp_path / "served"
    models = folder / "mirror" / "gluon" / "models"
    models.mkdir(parents=True)
    with zipfile.ZipFile((models / PUBLISHED_18).with_suffix(".zip"), "w") as archive:
        archive.write(weights18, PUBLISHED_18)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setenv("MXNET_GLUON_REPO", f"http://127.0.0.1:{server.server_port}/mirror/")
        yield models
        server.shutdown()
        thread.join()


def test_store_is_downloaded_once(
    tmp_path: Path, store: Path, weights18: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The published short name is kept; the hash of the drawn weights takes the place of the real file's.
    from gluoncv.model_zoo import model_store

    monkeypatch.setitem(model_store._model_sha1, "resnet18_v1b", hashlib.sha1(weights18.read_bytes()).hexdigest())
    monkeypatch.setattr(model_store, "short_hash", lambda _name: PUBLISHED_18.partition("-")[2].partition(".")[0])
    root = tmp_path / "models"
    found = find_backbone_weights("resnet-18", channel=None, root=root)
    assert found == root / PUBLISHED_18
    assert found.read_bytes() == weights18.read_bytes()
    assert [entry.name for entry in root.iterdir()] == [PUBLISHED_18]
    (store / PUBLISHED_18).with_suffix(".zip").unlink()
    assert find_backbone_weights("resnet-18", channel=None, root=root) == found


def test_store_with_another_file_none_and_a_broken_one(tmp_path: Path, store: Path) -> None:
    for backbone, words in (("resnet-18", "another sha1"), ("resnet-34", "404"), ("resnet-18", "BadZipFile")):
        with pytest.raises(ModelError, match=words):
            find_backbone_weights(backbone, channel=None, root=tmp_path / "models")
        (store / PUBLISHED_18).with_suffix(".zip").write_bytes(b"<html>please log in</html>")
    assert list((tmp_path / "models").iterdir()) == []


# Loading


def build_network(backbone: str = "resnet18") -> Any:
    """GluonCV's dilated backbone with a stand-in for a head."""
    from gluoncv.model_zoo.segbase import SegBaseModel
    from mxnet.gluon import nn

    net = SegBaseModel(3, False, backbone, pretrained_base=False)
    net.head = nn.Conv2D(3, 1, in_channels=512 if backbone == "resnet18" else 2048)
    return net


def save_published(arrays: Arrays, folder: Path) -> Path:
    write_params(arrays, folder / PUBLISHED_18)
    return folder / PUBLISHED_18


def save_old_names(arrays: Arrays, folder: Path, strip: bool = True) -> Path:
    """``conv0_weight``, or with GluonCV's prefix ``resnetv1b_conv0_weight``."""
    net = build_backbone("resnet-18")
    names = {name: p.name for name, p in net._collect_params_with_prefix().items()}
    old = {names[name].removeprefix(net.prefix if strip else ""): array for name, array in arrays.items()}
    write_params(old, folder / "old.params")
    return folder / "old.params"


def save_whole_network(arrays: Arrays, folder: Path) -> Path:
    head = {"head.weight": np.ones((3, 512, 1, 1), np.float32), "head.bias": np.zeros(3, np.float32)}
    body = {name: array for name, array in arrays.items() if not name.startswith("fc.")}
    write_params({**body, **head}, folder / "fcn.params")
    return folder / "fcn.params"


def save_torch_names(arrays: Arrays, folder: Path) -> Path:
    tensors = {compute_torch_name(name): array for name, array in arrays.items()}
    save_file(tensors, str(folder / "model.safetensors"))
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    "save",
    [save_published, save_old_names, partial(save_old_names, strip=False), save_whole_network, save_torch_names],
    ids=["published", "old names", "old names with prefix", "whole network", "safetensors"],
)
def test_every_backbone_parameter_is_set_and_the_head_is_not(
    tmp_path: Path, arrays18: Arrays, save: Callable[[Arrays, Path], Path]
) -> None:
    net = build_network()
    net.head.initialize()
    head = net.head.weight.data().asnumpy()
    load_backbone(net, save(arrays18, tmp_path), "resnet-18")
    parameters = net._collect_params_with_prefix()
    for name, array in arrays18.items():
        if not name.startswith("fc."):
            np.testing.assert_array_equal(parameters[name].data().asnumpy(), array, err_msg=name)
    np.testing.assert_array_equal(net.head.weight.data().asnumpy(), head)


def test_several_devices_and_half_precision(weights18: Path, arrays18: Arrays) -> None:
    import mxnet as mx

    net = build_network()
    net.cast("float16")
    net.initialize(ctx=[mx.cpu(0), mx.cpu(1)])
    load_backbone(net, weights18, "resnet-18")
    parameter = net.layer1[0].conv1.weight
    for device in (mx.cpu(0), mx.cpu(1)):
        values = parameter.data(device).asnumpy()
        np.testing.assert_array_equal(values, arrays18["layer1.0.conv1.weight"].astype(np.float16))


def test_file_that_does_not_fit_changes_nothing(tmp_path: Path, arrays18: Arrays) -> None:
    write_params({**arrays18, "bn1.beta": np.full(64, np.inf, np.float32)}, tmp_path / "x.params")
    net = build_network()
    net.initialize()
    with pytest.raises(ModelError, match=r"not finite in bn1\.beta"):
        load_backbone(net, tmp_path / "x.params", "resnet-18")
    assert net.bn1.gamma.data().asnumpy().tolist() == [1] * 64


def test_weights_or_network_of_another_backbone(weights18: Path) -> None:
    with pytest.raises(ModelError, match="does not hold the weights of resnet-34"):
        load_backbone(build_network("resnet34"), weights18, "resnet-34")
    with pytest.raises(ModelError, match=r"the parameters do not fit: .* is missing"):
        load_backbone(build_network("resnet34"), weights18, "resnet-18")
