"""Checkpoints of CSAIL's project, and ImageNet weights of torchvision and timm, under the names they are saved with.

The lists of names are written from the projects' own sources, without the converter's tables. The values are drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import save_file

import gluonseg.compat  # noqa: F401
from gluonseg.cli import main
from gluonseg.errors import DataError, ModelError
from gluonseg.models.convert import match_backbone
from gluonseg.models.csail_weights import match_decoder, name_classes, read_checkpoint, write_model
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.network import build_network, load_params
from gluonseg.models.params import convert_arrays
from gluonseg.models.pretrained import find_backbone_weights, load_backbone, read_backbone

Arrays = dict[str, npt.NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]
Names = Iterator[tuple[str, tuple[int, ...]]]
BRANCHES = {"w18": (18, 36, 72, 144), "w48": (48, 96, 192, 384)}


def conv(name: str, out: int, into: int, kernel: int, bias: bool = False) -> Names:
    yield f"{name}.weight", (out, into, kernel, kernel)
    if bias:
        yield f"{name}.bias", (out,)


def norm(name: str, channels: int) -> Names:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{leaf}", (channels,)


def pair(name: str, out: int, into: int, kernel: int) -> Names:
    """A convolution and its batch norm, in a Sequential."""
    yield from conv(f"{name}.0", out, into, kernel)
    yield from norm(f"{name}.1", out)


def block(name: str, into: int, width: int, is_deep: bool, downsample: bool) -> Names:
    """A block of a ResNet: two 3x3 convolutions, or 1x1, 3x3, 1x1."""
    out = width * (4 if is_deep else 1)
    plan = ((width, into, 1), (width, width, 3), (out, width, 1)) if is_deep else ((width, into, 3), (width, width, 3))
    for number, (channels, before, kernel) in enumerate(plan, 1):
        yield from conv(f"{name}.conv{number}", channels, before, kernel)
        yield from norm(f"{name}.bn{number}", channels)
    if downsample:
        yield from pair(f"{name}.downsample", out, into, 1)


def resnet(depths: tuple[int, ...], is_deep: bool) -> Names:
    for number, (into, out) in enumerate(((3, 64), (64, 64), (64, 128)), 1):
        yield from conv(f"conv{number}", out, into, 3)
        yield from norm(f"bn{number}", out)
    into = 128
    for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), 1):
        for index in range(depth):
            out = width * (4 if is_deep else 1)
            yield from block(f"layer{stage}.{index}", into, width, is_deep, index == 0)
            into = out


def mobilenet(is_torchvision: bool) -> Names:
    """CSAIL's blocks are one Sequential; torchvision's have one more for each convolution that a ReLU6 follows."""
    yield from pair("features.0", 32, 3, 3)
    settings = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    into, number = 32, 1
    for expand, out, count in settings:
        for _ in range(count):
            wide = into * expand
            plan = [(wide, 1, 3), (out, wide, 1)] if expand == 1 else [(wide, into, 1), (wide, 1, 3), (out, wide, 1)]
            for index, (channels, before, kernel) in enumerate(plan):
                is_last = index == len(plan) - 1
                if is_torchvision and not is_last:
                    yield from pair(f"features.{number}.conv.{index}", channels, before, kernel)
                    continue
                place = index if is_torchvision else 3 * index
                yield from conv(f"features.{number}.conv.{place}", channels, before, kernel)
                yield from norm(f"features.{number}.conv.{place + 1}", channels)
            into, number = out, number + 1
    if is_torchvision:
        yield from pair("features.18", 1280, 320, 1)
        yield from (("classifier.1.weight", (10, 1280)), ("classifier.1.bias", (10,)))


def vgg() -> Names:
    place, into = 0, 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            yield from conv(f"features.{place}", width, into, 3, bias=True)
            yield from norm(f"features.{place + 1}", width)
            place, into = place + 3, width
        place += 1
    yield "classifier.0.weight", (9, 25088)


def hrnet(width: str) -> Names:
    channels = BRANCHES[width]
    for number, into in ((1, 3), (2, 64)):
        yield from conv(f"conv{number}", 64, into, 3)
        yield from norm(f"bn{number}", 64)
    for index in range(4):
        yield from block(f"layer1.{index}", 64 if index == 0 else 256, 64, True, index == 0)
    yield from pair("transition1.0", channels[0], 256, 3)
    yield from pair("transition1.1.0", channels[1], 256, 3)
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        if stage > 2:
            yield from pair(f"transition{stage - 1}.{stage - 1}.0", channels[stage - 1], channels[stage - 2], 3)
        for module in range(modules):
            name = f"stage{stage}.{module}"
            for branch in range(stage):
                for index in range(4):
                    yield from block(
                        f"{name}.branches.{branch}.{index}", channels[branch], channels[branch], False, False
                    )
            for to in range(stage):
                for source in range(stage):
                    fuse = f"{name}.fuse_layers.{to}.{source}"
                    if source > to:
                        yield from pair(fuse, channels[to], channels[source], 1)
                    for step in range(to - source):
                        out = channels[to] if step == to - source - 1 else channels[source]
                        yield from pair(f"{fuse}.{step}", out, channels[source], 3)


def c1(fc: int, classes: int, deep: bool = False) -> Names:
    yield from pair("cbr", fc // 4, fc, 3)
    yield from conv("conv_last", classes, fc // 4, 1, bias=True)
    if deep:
        yield from pair("cbr_deepsup", fc // 4, fc // 2, 3)
        yield from conv("conv_last_deepsup", classes, fc // 4, 1, bias=True)


def ppm(fc: int, classes: int) -> Names:
    for level in range(4):
        yield from conv(f"ppm.{level}.1", 512, fc, 1)
        yield from norm(f"ppm.{level}.2", 512)
    yield from pair("cbr_deepsup", fc // 4, fc // 2, 3)
    yield from pair("conv_last", 512, fc + 2048, 3)
    yield from conv("conv_last.4", classes, 512, 1, bias=True)
    yield from conv("conv_last_deepsup", classes, fc // 4, 1, bias=True)


def upernet(planes: tuple[int, ...], width: int, classes: int) -> Names:
    for level in range(4):
        yield from pair(f"ppm_conv.{level}", 512, planes[-1], 1)
    yield from pair("ppm_last_conv", width, planes[-1] + 2048, 3)
    for level, into in enumerate(planes[:-1]):
        yield from pair(f"fpn_in.{level}", width, into, 1)
        yield from pair(f"fpn_out.{level}.0", width, width, 3)
    yield from pair("conv_last.0", width, 4 * width, 3)
    yield from conv("conv_last.1", classes, width, 1, bias=True)


ENCODERS: dict[str, Shapes] = {
    "resnet-18s": dict(resnet((2, 2, 2, 2), False)),
    "resnet-50": dict(resnet((3, 4, 6, 3), True)),
    "resnet-101": dict(resnet((3, 4, 23, 3), True)),
    "mobilenet-v2": dict(mobilenet(False)),
    "hrnet-w48": dict(hrnet("w48")),
}
DECODERS: dict[tuple[str, str], Shapes] = {
    ("c1", "resnet-50"): dict(c1(2048, 150, deep=True)),
    ("ppm", "resnet-18s"): dict(ppm(512, 150)),
    ("upernet", "resnet-101"): dict(upernet((256, 512, 1024, 2048), 512, 150)),
    ("upernet-lite", "resnet-50"): dict(upernet((256, 512, 1024, 2048), 256, 150)),
    ("hrnet", "hrnet-w48"): dict(c1(720, 150)),
}


def draw(shapes: Shapes) -> Arrays:
    rng = np.random.default_rng(3)
    arrays: Arrays = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, dtype=np.float32)
        arrays[name] = values / np.float32(np.sqrt(np.prod(shape[1:]))) if len(shape) > 1 else np.abs(values) + 1
    return arrays


def save(shapes: Shapes, path: Path) -> Arrays:
    """Write drawn tensors, with what batch norms keep beside their values."""
    arrays = draw(shapes)
    counters: dict[str, npt.NDArray[np.generic]] = {}
    for name in shapes:
        if name.endswith(".running_mean"):
            layer = name.removesuffix(".running_mean")
            counters[f"{layer}.num_batches_tracked"] = np.array(9)
            counters[f"{layer}._tmp_running_mean"] = counters[f"{layer}._tmp_running_var"] = np.zeros(3, np.float32)
            counters[f"{layer}._running_iter"] = np.ones(1, np.float32)
    save_file({**arrays, **counters}, str(path))
    return arrays


def check_all_arrive(found: Arrays, saved: Arrays) -> None:
    """Each saved tensor is one of the found ones, and there are no others."""
    assert sorted(array.tobytes() for array in found.values()) == sorted(array.tobytes() for array in saved.values())


@pytest.mark.parametrize("backbone", list(ENCODERS))
def test_encoders_of_csail(backbone: str) -> None:
    names = match_backbone(Path("encoder"), backbone, ENCODERS[backbone])
    assert set(names) == set(ENCODERS[backbone])
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(("algorithm", "backbone"), list(DECODERS))
def test_decoders_of_csail(algorithm: str, backbone: str) -> None:
    shapes = DECODERS[algorithm, backbone]
    card, names = match_decoder(Path("decoder"), algorithm, backbone, shapes)
    assert set(names) == set(shapes)
    assert len(set(names.values())) == len(names)
    assert card.num_classes == 150
    assert card.colours[:2] == ((120, 120, 120), (180, 120, 120))
    assert card.aux == ("conv_last_deepsup.weight" in shapes)
    assert card.align_corners is False


@pytest.mark.parametrize(
    ("backbone", "theirs", "ours"),
    [
        ("resnet-50", "conv1.weight", "conv1.0.weight"),
        ("resnet-50", "bn3.weight", "bn1.gamma"),
        ("resnet-50", "bn1.running_var", "conv1.1.running_var"),
        ("mobilenet-v2", "features.0.1.bias", "features.1.beta"),
        ("mobilenet-v2", "features.1.conv.3.weight", "features.3.out.3.weight"),
        ("mobilenet-v2", "features.17.conv.7.running_mean", "features.19.out.7.running_mean"),
        ("hrnet-w48", "layer1.3.bn3.weight", "layer1.3.body.7.gamma"),
        ("hrnet-w48", "stage3.2.branches.1.3.conv2.weight", "stage3.2.branches.1.3.body.3.weight"),
        ("hrnet-w48", "stage4.0.fuse_layers.0.3.1.bias", "stage4.0.fuse_layers.0.3.1.beta"),
        ("hrnet-w48", "stage4.0.fuse_layers.3.0.2.0.weight", "stage4.0.fuse_layers.3.0.6.weight"),
    ],
)
def test_layers_of_an_encoder(backbone: str, theirs: str, ours: str) -> None:
    assert match_backbone(Path("encoder"), backbone, ENCODERS[backbone])[theirs] == ours


@pytest.mark.parametrize(
    ("algorithm", "backbone", "theirs", "ours"),
    [
        ("c1", "resnet-50", "conv_last.bias", "head.3.bias"),
        ("c1", "resnet-50", "conv_last_deepsup.weight", "auxlayer.3.weight"),
        ("ppm", "resnet-18s", "ppm.3.2.weight", "head.ppm.3.1.gamma"),
        ("ppm", "resnet-18s", "conv_last_deepsup.weight", "auxlayer.4.weight"),
        ("upernet", "resnet-101", "fpn_out.2.0.1.bias", "head.fpn_out.2.1.beta"),
        ("upernet", "resnet-101", "conv_last.1.bias", "head.conv_last.3.bias"),
        ("hrnet", "hrnet-w48", "cbr.1.running_mean", "head.c1.1.running_mean"),
    ],
)
def test_layers_of_a_decoder(algorithm: str, backbone: str, theirs: str, ours: str) -> None:
    _, names = match_decoder(Path("decoder"), algorithm, backbone, DECODERS[algorithm, backbone])
    assert names[theirs] == ours


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays]:
    """A folder with the two files of C1_deepsup on MobileNetV2 with 5 classes, and what is in them."""
    folder = tmp_path_factory.mktemp("csail")
    encoder = save(ENCODERS["mobilenet-v2"], folder / "encoder.safetensors")
    decoder = save(dict(c1(320, 5, deep=True)), folder / "decoder.safetensors")
    return folder, {**encoder, **decoder}


def test_command_gives_a_model_that_predicts(
    saved: tuple[Path, Arrays], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, tensors = saved
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)).save(tmp_path / "a.jpg")
    model, masks = tmp_path / "model", tmp_path / "masks"
    with caplog.at_level(logging.WARNING):
        command = ["convert", str(folder / "encoder.safetensors"), "--decoder", str(folder / "decoder.safetensors")]
        names = tmp_path / "names.json"
        names.write_text('["wall", "building", "sky", "floor", "tree"]')
        assert main([*command, "--output", str(model), "--class_names", str(names)]) == 0
    assert "there it is on 160 channels of MobileNetV2" in caplog.text
    artifact = read_artifact(model)
    assert artifact.card.describe() == "c1 on mobilenet-v2 with 5 classes"
    assert artifact.card.class_names[:2] == ("wall", "building")
    assert (artifact.card.aux, artifact.card.output_stride) == (False, 8)
    check_all_arrive(dict(artifact.arrays), {n: a for n, a in tensors.items() if "deepsup" not in n})
    assert main(["predict", str(tmp_path / "a.jpg"), "--model", str(model), "--output", str(masks)]) == 0
    with Image.open(masks / "a.png") as mask:
        assert mask.size == (56, 40)
    with pytest.raises(ModelError, match="holds a model already"):
        write_model(artifact.card, {}, model)
    with pytest.raises(ModelError, match=r"a\.jpg is a file; with --decoder, --output names the model folder"):
        write_model(artifact.card, {}, tmp_path / "a.jpg")
    names.write_text('["wall"]')
    with pytest.raises(DataError, match="has 1 names, and the model has 5 classes"):
        name_classes(artifact.card, names)


def test_plain_encoder_keeps_its_stride(saved: tuple[Path, Arrays]) -> None:
    folder, _ = saved
    card, arrays = read_checkpoint(folder / "encoder.safetensors", folder / "decoder.safetensors", output_stride=32)
    assert card.output_stride == 32
    load_params(build_network("c1", "mobilenet-v2", 5, aux=False, output_stride=32), convert_arrays(arrays), None)


def test_encoder_needs_its_decoder(saved: tuple[Path, Arrays], capsys: pytest.CaptureFixture[str]) -> None:
    encoder, output = str(saved[0] / "encoder.safetensors"), str(saved[0] / "out")
    assert main(["convert", encoder, "--output", output]) == 2
    assert "--decoder or --backbone is missing: name with --decoder the decoder" in capsys.readouterr().err
    assert main(["convert", encoder, "--output", output, "--backbone", "mobilenet-v2", "--output_stride", "8"]) == 2
    assert "--decoder is missing" in capsys.readouterr().err
    assert not Path(output).exists()


def test_files_that_are_no_encoder_or_decoder(saved: tuple[Path, Arrays], tmp_path: Path) -> None:
    encoder, decoder = saved[0] / "encoder.safetensors", saved[0] / "decoder.safetensors"
    with pytest.raises(ModelError, match=r"decoder\.safetensors is the decoder and .* the other way round"):
        read_checkpoint(decoder, encoder)
    with pytest.raises(ModelError, match=r"encoder\.safetensors is no decoder of CSAIL's that is known here"):
        read_checkpoint(encoder, encoder)
    with pytest.raises(ModelError, match="holds mobilenet-v2, not resnet-50; leave --backbone out"):
        read_checkpoint(encoder, decoder, "resnet-50")
    (tmp_path / "decoder.pth").write_bytes(b"PK\x03\x04\x00\x00\x08\x08\x00\x00")
    with pytest.raises(ModelError, match=r"decoder\.pth is not a whole .*safetensors\.torch\.save_file"):
        read_checkpoint(encoder, tmp_path / "decoder.pth")


def test_encoder_that_is_not_known_here(saved: tuple[Path, Arrays], tmp_path: Path) -> None:
    save_file({"stage4.0.branches.0.0.conv1.weight": np.zeros((32, 32, 3, 3))}, str(tmp_path / "x.safetensors"))
    with pytest.raises(
        ModelError, match=r"x\.safetensors holds hrnet-w32; the encoders that are known here are resnet-50"
    ):
        read_checkpoint(tmp_path / "x.safetensors", saved[0] / "decoder.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cbr.1.bias": None}, r"decoder C1 for an encoder resnet-50: missing: cbr\.1\.bias\. Give both files of one"),
        ({"cbr.2.bias": (512,)}, r"not expected: cbr\.2\.bias"),
        ({"cbr.0.weight": (128, 512, 3, 3)}, r"cbr\.0\.weight is \(128, 512, 3, 3\), not \(512, 2048, 3, 3\)"),
        ({"conv_last.weight": (1, 512, 1, 1)}, "has 1 classes, by conv_last.4.weight or"),
    ],
    ids=["missing", "extra", "another encoder's", "one class"],
)
def test_decoder_that_does_not_fit(change: dict[str, tuple[int, ...] | None], message: str) -> None:
    changed = {**DECODERS["c1", "resnet-50"], **change}
    found = {name: shape for name, shape in changed.items() if shape}
    with pytest.raises(ModelError, match=message):
        match_decoder(Path("decoder"), "c1", "resnet-50", found)


def test_encoder_of_another_network_is_named() -> None:
    with pytest.raises(ModelError, match=r"weights of resnet-50: .* It looks like hrnet-w48\."):
        match_backbone(Path("encoder"), "resnet-50", ENCODERS["hrnet-w48"])


# ImageNet weights

PUBLIC: dict[str, tuple[str, Shapes]] = {
    "mobilenet-v2": ("mobilenet_v2-7ebf99e0.safetensors", dict(mobilenet(True))),
    "vgg-16": ("vgg16_bn-6c64b313.safetensors", dict(vgg())),
    "hrnet-w18": (
        "model.safetensors",
        {**dict(hrnet("w18")), "incre_modules.0.0.conv1.weight": (32, 18, 1, 1), "classifier.bias": (10,)},
    ),
    "resnet-18s": (
        "resnet18-imagenet.safetensors",
        {**ENCODERS["resnet-18s"], "fc.bias": (10,), "fc.weight": (10, 512)},
    ),
}


@pytest.mark.parametrize("backbone", list(PUBLIC))
def test_public_weights_reach_the_encoder(tmp_path: Path, backbone: str) -> None:
    name, shapes = PUBLIC[backbone]
    saved = save(shapes, tmp_path / name)
    found = read_backbone(find_backbone_weights(backbone, channel=tmp_path), backbone)
    unused = ("classifier.", "features.18.", "incre_modules.", "fc.") if backbone != "vgg-16" else ("classifier.",)
    check_all_arrive(found, {name: array for name, array in saved.items() if not name.startswith(unused)})


def test_public_names_of_the_last_convolution_of_a_block() -> None:
    names = match_backbone(Path("x"), "mobilenet-v2", PUBLIC["mobilenet-v2"][1])
    assert names["features.1.conv.1.weight"] == "features.3.out.3.weight"
    assert names["features.17.conv.1.1.bias"] == "features.19.out.4.beta"
    assert names["features.17.conv.3.weight"] == "features.19.out.7.gamma"


def test_network_without_the_last_stage_takes_the_others(tmp_path: Path) -> None:
    name, shapes = PUBLIC["mobilenet-v2"]
    saved = save(shapes, tmp_path / name)
    network = build_network("segnet", "mobilenet-v2", 3)
    load_backbone(network, tmp_path / name, "mobilenet-v2")
    found = network._collect_params_with_prefix()["features.15.out.7.gamma"].data().asnumpy()
    np.testing.assert_array_equal(found, saved["features.13.conv.3.weight"])


def test_mobilenet_has_no_safetensors_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no safetensors file of mobilenet is read; give GluonCV"):
        match_backbone(tmp_path, "mobilenet", {})
