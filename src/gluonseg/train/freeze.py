"""Training in two stages: the heads on a backbone that is frozen, then everything."""

from __future__ import annotations

import logging
from typing import Any

import mxnet as mx

_log = logging.getLogger(__name__)
HEAD_PHASE, ALL_PHASE = "head", "all"


class Freeze:
    """Keeps all of ``network`` but its ``heads`` bit for bit for the first ``epochs`` epochs.

    Its parameters get no gradient, so no update and no weight decay. Its batch norm uses the statistics it has, as in
    prediction, and leaves them alone.
    """

    def __init__(self, network: Any, epochs: int, heads: tuple[str, ...]) -> None:
        self.epochs = epochs
        self._heads = heads
        self._network = network
        self._grad_reqs: dict[str, str] = {}

    def get_phase(self, epoch: int) -> str:
        """``head`` while the backbone is frozen, then ``all``."""
        return HEAD_PHASE if epoch < self.epochs else ALL_PHASE

    def begin_epoch(self, epoch: int) -> bool:
        """Freeze or thaw as ``epoch`` needs it; True when the network changed and has to be compiled anew."""
        is_frozen, is_wanted = bool(self._grad_reqs), self.get_phase(epoch) == HEAD_PHASE
        if is_frozen == is_wanted:
            return False
        mx.nd.waitall()
        if is_wanted:
            _log.info("Backbone frozen: the heads are trained until the end of epoch %d", self.epochs - 1)
            self._freeze()
        else:
            _log.info("Backbone no longer frozen: everything is trained from epoch %d on", epoch)
            self._thaw()
        # The compiled graph has how batch norm works and what gets a gradient built in; this drops it.
        self._network.hybridize(static_alloc=True)
        return True

    def _freeze(self) -> None:
        for name, parameter in self._network._collect_params_with_prefix().items():
            if not name.startswith(self._heads):
                self._grad_reqs[name] = parameter.grad_req
                parameter.grad_req = "null"
        self._fix_statistics(True)

    def _thaw(self) -> None:
        parameters = self._network._collect_params_with_prefix()
        for name, grad_req in self._grad_reqs.items():
            parameters[name].grad_req = grad_req
        self._grad_reqs = {}
        self._fix_statistics(False)

    def _fix_statistics(self, is_fixed: bool) -> None:
        def fix(block: Any) -> None:
            if isinstance(block, mx.gluon.nn.BatchNorm):
                block._kwargs["use_global_stats"] = is_fixed

        for name, child in self._network._children.items():
            if not f"{name}.".startswith(self._heads):
                child.apply(fix)
