"""The network in ONNX Runtime, which serves without MXNet: faster on a CPU, in less memory and sooner ready."""

from __future__ import annotations

import onnxruntime

from gluonseg.errors import ModelError
from gluonseg.machine.limits import count_usable_cores, read_thread_count
from gluonseg.models.cost import Cost, compute_graph_cost
from gluonseg.models.folder.card import ModelCard
from gluonseg.onnx.file import INPUT, LOGITS, OnnxFile
from gluonseg.predict.engine import Float32Array, UInt8Array

_ONLY_ERRORS = 3


class OnnxEngine:
    """A session on all threads that ``OMP_NUM_THREADS`` grants, else on all usable cores.

    Raises ModelError when ``file`` is no network of ``card`` as :mod:`gluonseg.onnx.trace` writes them.
    """

    def __init__(self, file: OnnxFile, card: ModelCard) -> None:
        self.name = "ONNX Runtime" if file.precision == "float32" else f"ONNX Runtime {file.precision}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = read_thread_count() or count_usable_cores()
        options.log_severity_level = _ONLY_ERRORS
        # The pattern is that of one picture size; kept for each, they would add up.
        options.enable_mem_pattern = False
        # Else the file itself says whether it is ONNX or the runtime's own format, which nobody has looked at here.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(
                file.path or file.read(), options, providers=["CPUExecutionProvider"]
            )
        except _get_load_errors() as error:
            raise ModelError(f"{file.source} cannot be used: {str(error).splitlines()[0]}") from None
        self._source = file.source
        self._outline = file.read_outline()
        self._check(file, card)
        # The mask is computed from the logits outside: the graph's own enlarges all of them.
        self._run_options = onnxruntime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True

    def _check(self, file: OnnxFile, card: ModelCard) -> None:
        inputs = {one.name: one for one in self._session.get_inputs()}
        outputs = {one.name: one for one in self._session.get_outputs()}
        if list(inputs) != [INPUT] or inputs[INPUT].type != "tensor(uint8)" or LOGITS not in outputs:
            raise ModelError(f"{file.source} is no network of gluonseg: it takes {', '.join(inputs) or 'nothing'}")
        shape = outputs[LOGITS].shape
        if outputs[LOGITS].type != "tensor(float)" or len(shape) != 4:
            raise ModelError(f"{file.source} is no network of gluonseg: its output is {outputs[LOGITS].type} {shape}")
        classes = shape[1]
        if classes != card.num_classes:
            raise ModelError(f"{file.source} has {classes} classes, the model card says {card.num_classes}")

    def compute_logits(self, images_nhwc: UInt8Array) -> Float32Array:
        """See :class:`gluonseg.predict.engine.Engine`."""
        try:
            found: Float32Array = self._session.run([LOGITS], {INPUT: images_nhwc}, self._run_options)[0]
        except _get_load_errors() as error:
            raise ModelError(f"{self._source} cannot be run: {str(error).splitlines()[0]}") from None
        return found

    def compute_cost(self, height: int, width: int) -> Cost:
        """See :class:`gluonseg.predict.engine.Engine`."""
        return compute_graph_cost(self._outline, height, width)

    def read_metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        return dict(self._session.get_modelmeta().custom_metadata_map)


def _get_load_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a file that it cannot load or run; its classes have no common ancestor."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names)
