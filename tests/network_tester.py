"""What must hold for every network. A network's test class names it; see test_networks.py.

A network of another package can be tested in the same way: docs/networks.md has the class and the command.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import mxnet as mx
import numpy as np
import onnx
import pytest
from PIL import Image

from conftest import TINY, build_listeners
from gluonseg.data.dataset import Dataset
from gluonseg.data.pairs import match_pairs
from gluonseg.export.float32 import TOLERANCE, compute_difference
from gluonseg.export.int8 import quantize_file
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.labels import default_label_map
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.folder.card import ModelCard, build_card
from gluonseg.models.folder.manifest import ONNX_FILE, SYMBOL_FILE
from gluonseg.models.network import SegmentationNetwork, build_network
from gluonseg.models.registry import find_network
from gluonseg.onnx.file import build_onnx_file, find_onnx
from gluonseg.onnx.symbol import describe_symbol, parse_symbol
from gluonseg.onnx.trace import build_graph
from gluonseg.predict.mxnet_engine import MXNetEngine
from gluonseg.predict.onnx_engine import OnnxEngine
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.serve.app import create_app
from gluonseg.serve.settings import Settings
from gluonseg.train.freeze import Freeze
from gluonseg.train.job import JobSettings, run_job
from gluonseg.train.start import build_start_network, load_artifact
from local_model import LocalModel
from picture import draw_noise, encode_picture

CLASSES = 5
Channels = Mapping[str, Path]
Job = tuple[Path, Channels, Mapping[str, str]]


def draw_batch(height: int, width: int, count: int = 1, seed: int = 0) -> Any:
    """A batch as networks take it, (count, 3, height, width)."""
    return mx.nd.array(np.random.default_rng(seed).normal(0, 1, (count, 3, height, width)).astype(np.float32))


def build_stirred(algorithm: str, backbone: str, **options: Any) -> SegmentationNetwork:
    """A network with random values everywhere, so that two that were swapped would show."""
    rng = np.random.default_rng(5)
    network = build_network(algorithm, backbone, CLASSES, **options)
    network.initialize(mx.init.Xavier(), force_reinit=True)
    network(draw_batch(32, 32))  # works the shapes out
    for name, parameter in network._collect_params_with_prefix().items():
        if name.endswith(("running_mean", "beta", "bias")):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.1, parameter.shape)))
        elif name.endswith(("running_var", "gamma")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
    return network


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """NDArrays that differ by at most ``tolerance`` of the largest value."""
    a, b = found.asnumpy(), expected.asnumpy()
    assert a.shape == b.shape
    assert np.abs(b).max() > 0
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def describe_network(network: SegmentationNetwork, algorithm: str, backbone: str) -> ModelCard:
    """The card that a training of ``network`` would write."""
    details = find_network(algorithm).describe(aux=network.aux, output_stride=network.output_stride)
    return build_card(algorithm, backbone, CLASSES, **details)


def trace(network: SegmentationNetwork, card: ModelCard) -> tuple[onnx.ModelProto, OnnxEngine]:
    """The network as ONNX, and an engine that runs it."""
    arrays = {name: one.data().asnumpy() for name, one in network._collect_params_with_prefix().items()}
    graph = build_graph(card, arrays, parse_symbol(describe_symbol(network).encode(), "the symbol"))
    return graph, OnnxEngine(build_onnx_file(graph, "the graph"), card)


class NetworkTester:
    """Tests of one network; a subclass, whose name begins with ``Test``, gives these."""

    algorithm: ClassVar[str]
    backbones: ClassVar[tuple[str, ...]] = ("resnet-18",)
    """The first is that of all tests; with the others the graph and the parameters are compared only."""
    parameters: ClassVar[int]
    """Of the first backbone with five classes, without an auxiliary head."""

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls) -> SegmentationNetwork:
        """The network on its first backbone; tests leave it as they found it."""
        return build_stirred(cls.algorithm, cls.backbones[0])

    @pytest.fixture(scope="class")
    @classmethod
    def card(cls, network: SegmentationNetwork) -> ModelCard:
        """What a training of the network would say of it."""
        return describe_network(network, cls.algorithm, cls.backbones[0])

    @pytest.fixture(scope="class")
    @classmethod
    def job(cls, tmp_path_factory: pytest.TempPathFactory, drawn_channels: Channels) -> Job:
        """A tiny training with checkpoints: its folder, its channels, its hyperparameters."""
        folder = tmp_path_factory.mktemp(cls.algorithm)
        hyperparameters = {**TINY, "algorithm": cls.algorithm, "backbone": cls.backbones[0]}
        cls._train(folder, drawn_channels, hyperparameters)
        return folder, drawn_channels, hyperparameters

    @staticmethod
    def _train(folder: Path, channels: Channels, hyperparameters: Mapping[str, str]) -> None:
        settings = JobSettings(hyperparameters, channels, folder / "model", checkpoint_folder=folder / "checkpoints")
        assert run_job(settings, build_listeners).confusion is not None

    @pytest.mark.parametrize("size", [(8, 8), (9, 31), (70, 69)])
    def test_any_size(self, network: SegmentationNetwork, size: tuple[int, int]) -> None:
        batch = draw_batch(*size, count=2)
        outputs = network(batch)
        assert [output.shape for output in outputs] == [(2, CLASSES, *size)] * (1 + network.aux)
        places = tuple(math.ceil(side / network.output_stride) for side in size)
        assert network.predict_coarse(batch).shape == (2, CLASSES, *places)
        # A picture's result does not depend on its neighbours in the batch.
        assert_close(network(batch[1:])[0], outputs[0][1:])
        assert_close(network.predict(batch), outputs[0], 0)

    @pytest.mark.parametrize("size", [(1, 1), (7, 5)])
    def test_the_smallest_pictures(self, network: SegmentationNetwork, card: ModelCard, size: tuple[int, int]) -> None:
        predictor = Predictor(MXNetEngine(network, card), card)
        image = draw_noise(*size, seed=1)
        probabilities = predictor.predict_probabilities(image)
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
        np.testing.assert_array_equal(predictor.predict_mask(image), probabilities.argmax(axis=0))

    def test_gradients_reach_every_parameter(self, network: SegmentationNetwork) -> None:
        with mx.autograd.record():
            loss = sum(output.square().mean() for output in network(draw_batch(40, 72, count=2)))
        loss.backward()
        for name, parameter in network._collect_params_with_prefix().items():
            if parameter.grad_req != "null":
                gradient = parameter.grad().asnumpy()
                assert np.isfinite(gradient).all(), name
                assert gradient.any(), name

    def test_compiled_equals_imperative_for_changing_sizes(self, network: SegmentationNetwork) -> None:
        batches = [draw_batch(*size) for size in ((32, 32), (24, 56), (32, 32))]
        imperative = [network(batch) for batch in batches]
        network.hybridize(static_alloc=True)
        try:
            for batch, expected in zip(batches, imperative, strict=True):
                for found, one in zip(network(batch), expected, strict=True):
                    assert_close(found, one)
        finally:
            network.hybridize(False)

    def test_threads_do_not_disturb_one_another(self, network: SegmentationNetwork, card: ModelCard) -> None:
        predictor = Predictor(MXNetEngine(network, card), card)
        images = [draw_noise(*size, seed=2) for size in ((24, 40), (57, 33))] * 3
        alone = [predictor.predict_probabilities(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(predictor.predict_probabilities, images))
        assert all((one == other).all() for one, other in zip(alone, together, strict=True))

    def test_without_auxiliary_head(self) -> None:
        network = build_network(self.algorithm, self.backbones[0], 2, aux=False)
        network.initialize(force_reinit=True)
        assert [output.shape for output in network(draw_batch(16, 24))] == [(1, 2, 16, 24)]

    def test_the_graph_gives_what_mxnet_gives(self) -> None:
        """At three sizes, at every output stride, and on the other backbones at the first one; its cost, too."""
        strides = find_network(self.algorithm).output_strides
        pairs = [(self.backbones[0], stride) for stride in strides]
        for backbone, stride in [*pairs, *((backbone, strides[0]) for backbone in self.backbones[1:])]:
            network = build_stirred(self.algorithm, backbone, output_stride=stride)
            card = describe_network(network, self.algorithm, backbone)
            graph, engine = trace(network, card)
            onnx.checker.check_model(graph, full_check=True)
            assert [one.name for one in graph.graph.input] == ["image"]
            assert not [one for one in graph.graph.initializer if one.name.startswith("auxlayer")]
            sizes = [(8, 8), (50, 23), (32, 64)]
            reference = MXNetEngine(network, card)
            assert compute_difference(engine, reference, sizes) < TOLERANCE, (backbone, stride)
            assert engine.compute_cost(97, 131) == reference.compute_cost(97, 131), (backbone, stride)

    def test_the_mask_inside_the_graph_is_the_servers(self, network: SegmentationNetwork, card: ModelCard) -> None:
        import onnxruntime

        graph, engine = trace(network, card)
        picture = draw_noise(45, 67)
        (mask,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(["mask"], {"image": picture[None]})
        assert mask.dtype == np.uint8
        # Two of ten thousand places are as good as equal.
        assert (mask[0] == Predictor(engine, card).predict_mask(picture)).mean() > 0.999

    def test_cost(self, network: SegmentationNetwork, card: ModelCard) -> None:
        engine = MXNetEngine(network, card)
        small, large = (engine.compute_cost(*size) for size in ((64, 64), (128, 128)))
        assert small.parameters == large.parameters == self.parameters
        assert 3.5 * small.macs < large.macs < 4.5 * small.macs

    def test_a_tiny_training_serves_a_mask(self, job: Job) -> None:
        """One request to the model of a training, and the same mask where only the symbol is there."""
        model = job[0] / "model"
        assert (model / ONNX_FILE).is_file()
        predictor, picture = load_predictor(model), draw_noise(37, 50)
        client = create_app(Settings(), LocalModel(predictor, Settings())).test_client()
        answer = client.post("/invocations", data=encode_picture(picture), headers={"Accept": "image/png"})
        assert answer.status_code == 200, answer.data
        mask = np.asarray(Image.open(io.BytesIO(answer.data)))
        assert mask.shape == (37, 50)
        bare = job[0] / "bare"
        bare.mkdir()
        for name in ("model_best.params", "model_card.json", SYMBOL_FILE):
            (bare / name).hardlink_to(model / name)
        np.testing.assert_array_equal(load_predictor(bare).predict_mask(picture), mask)

    def test_tiles_give_nearly_the_mask_of_the_whole(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        predictor = load_predictor(job[0] / "model")
        picture = np.repeat(np.repeat(draw_noise(3, 26), 32, axis=0), 32, axis=1)  # 832 pixels wide, two tiles
        whole = predictor.compute_logits(picture)
        monkeypatch.setattr("gluonseg.predict.tile.MAX_WHOLE_PIXELS", 0)
        tiled = predictor.compute_logits(picture)
        assert tiled.shape == whole.shape
        # Of the first tile the part that is far from the others knows all around it that it needs.
        y, x = (64 // predictor.card.output_stride for _ in range(2))
        scale = np.abs(whole).max()
        assert np.median(np.abs(tiled - whole)) < 0.05 * scale
        assert np.abs(tiled - whole)[:, :y, :x].max() < 0.2 * scale

    def test_int8_gives_nearly_the_same_mask(self, job: Job) -> None:
        model, channels, _ = job[0] / "model", *job[1:]
        exact, file = load_predictor(model), find_onnx(model)
        assert file is not None
        training = Dataset(match_pairs(channels["train"], channels["train_annotation"]).pairs, default_label_map(255))
        fast = Predictor(OnnxEngine(quantize_file(file, exact, training), exact.card), exact.card)
        picture, _ = training.read(0)
        assert (fast.predict_mask(picture) == exact.predict_mask(picture)).mean() > 0.9

    def test_a_killed_training_goes_on_bit_for_bit(self, job: Job, tmp_path: Path) -> None:
        folder, channels, hyperparameters = job
        (tmp_path / "checkpoints").mkdir()
        first = min(folder.glob("checkpoints/checkpoint-*"))
        (tmp_path / "checkpoints" / first.name).hardlink_to(first)
        self._train(tmp_path, channels, hyperparameters)
        for name in ("model_best.params", "model_algo-1", ONNX_FILE):
            assert (tmp_path / "model" / name).read_bytes() == (folder / "model" / name).read_bytes(), name

    def test_fine_tuning_with_other_classes(self, job: Job) -> None:
        """All is taken over but the class heads; those have the new number of classes."""
        artifact = read_artifact(job[0] / "model")
        hp = dataclasses.replace(parse_hyperparameters(job[2]), num_classes=7)
        network = build_start_network(hp, [mx.cpu()])
        load_artifact(network, artifact, hp)
        parameters = network._collect_params_with_prefix()
        kept = [name for name in parameters if not name.startswith(find_network(self.algorithm).class_heads)]
        assert 2 * len(kept) > len(parameters) > len(kept)
        for name in kept:
            np.testing.assert_array_equal(parameters[name].data().asnumpy(), artifact.arrays[name])
        assert network(draw_batch(16, 16))[0].shape == (1, 7, 16, 16)

    def test_heads_learn_faster_and_a_frozen_backbone_leaves_them_to_train(self) -> None:
        network, declaration = build_stirred(self.algorithm, self.backbones[0]), find_network(self.algorithm)
        heads, batch = declaration.heads, draw_batch(32, 32, count=3)
        assert set(declaration.class_heads) <= set(heads)
        parameters = network._collect_params_with_prefix()
        assert all(any(name.startswith(head) for name in parameters) for head in heads)
        assert Freeze(network, 1, heads).begin_epoch(0)
        before = {name: one.data().asnumpy() for name, one in parameters.items()}
        with mx.autograd.record():
            network(batch)[0].sum().backward()
        mx.nd.waitall()
        for name, parameter in parameters.items():
            if name.startswith(heads):
                assert parameter.lr_mult == 10, name
                assert parameter.grad_req == "null" or name.startswith("auxlayer.") or parameter.grad().asnumpy().any()
            else:
                assert (parameter.lr_mult, parameter.grad_req) == (1, "null"), name
                np.testing.assert_array_equal(parameter.data().asnumpy(), before[name])
