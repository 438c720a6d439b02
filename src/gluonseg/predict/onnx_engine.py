"""The network in ONNX Runtime, which serves without MXNet: faster on a CPU, in less memory and sooner ready."""

from __future__ import annotations

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from gluonseg.errors import ModelError
from gluonseg.labels import UInt8Array
from gluonseg.machine.limits import count_usable_cores, read_thread_count
from gluonseg.models.cost import Cost, compute_graph_cost
from gluonseg.models.folder.card import ModelCard
from gluonseg.models.folder.manifest import FLOAT32
from gluonseg.onnx.file import INPUT, LOGITS, OnnxFile
from gluonseg.predict.engine import Float32Array

_ONLY_ERRORS = 3
_FAILURES = (
    _state.Fail, _state.InvalidArgument, _state.InvalidGraph, _state.InvalidProtobuf, _state.NotImplemented,
    _state.RuntimeException,
)  # fmt: skip
"""What ONNX Runtime raises for a file that it cannot load or run; these classes have no common ancestor."""


class OnnxEngine:
    """A session on the threads of ``OMP_NUM_THREADS``, else on all usable cores.

    Raises ModelError when ``file`` is no network of ``card`` as :mod:`gluonseg.onnx.trace` writes them.
    """

    def __init__(self, file: OnnxFile, card: ModelCard) -> None:
        self.name = "ONNX Runtime" if file.precision == FLOAT32 else f"ONNX Runtime {file.precision}"
        self._source, self._outline = file.source, file.outline
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = read_thread_count() or count_usable_cores()
        options.log_severity_level = _ONLY_ERRORS
        # ONNX Runtime would keep a memory pattern for each picture size, and they would add up.
        options.enable_mem_pattern = False
        # Without this the file itself chooses between ONNX, which was checked, and ONNX Runtime's own format.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(file.content, options, providers=["CPUExecutionProvider"])
        except _FAILURES as error:
            raise ModelError(f"{file.source} cannot be used: {str(error).splitlines()[0]}") from None
        found = {one.name: (one.type, one.shape) for one in (*self._session.get_inputs(), *self._session.get_outputs())}
        kind, shape = found.get(LOGITS, ("", []))
        if len(self._session.get_inputs()) != 1 or INPUT not in found or kind != "tensor(float)" or len(shape) != 4:
            raise ModelError(f"{file.source} is no network of gluonseg: its inputs and outputs are {', '.join(found)}")
        if shape[1] != card.num_classes:
            raise ModelError(f"{file.source} has {shape[1]} classes, the model card says {card.num_classes}")
        # The mask is computed from the logits outside: the graph's own enlarges all of them.
        self._run_options = onnxruntime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True

    def compute_logits(self, images_nhwc: UInt8Array) -> Float32Array:
        """See :class:`gluonseg.predict.engine.Engine`."""
        try:
            found: Float32Array = self._session.run([LOGITS], {INPUT: images_nhwc}, self._run_options)[0]
        except _FAILURES as error:
            raise ModelError(f"{self._source} cannot be run: {str(error).splitlines()[0]}") from None
        return found

    def compute_cost(self, height: int, width: int) -> Cost:
        """See :class:`gluonseg.predict.engine.Engine`."""
        return compute_graph_cost(self._outline, height, width)

    def read_metadata(self) -> dict[str, str]:
        """Names and values that the file keeps beside the network, such as the digest of its parameters."""
        return dict(self._session.get_modelmeta().custom_metadata_map)
