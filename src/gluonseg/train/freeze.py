"""Training in two stages: the heads on a backbone that is frozen, then everything."""

from __future__ import annotations

import logging
from typing import Any

import mxnet as mx

_log = logging.getLogger(__name__)
HEAD_PHASE, ALL_PHASE = "head", "all"


class Freeze:
    """Keeps all of ``network`` but its ``heads`` bit for bit for the first ``epochs`` epochs.

    The frozen parameters get no gradient, so no update and no weight decay. Frozen batch norm uses the statistics it
    has, as in prediction, and does not change them.
    """

    def __init__(self, network: Any, epochs: int, heads: tuple[str, ...]) -> None:
        self.epochs = epochs
        self._heads = heads
        self._network = network
        self._grad_reqs: dict[str, str] = {}

    def find_phase(self, epoch: int) -> str | None:
        """``head`` while the backbone is frozen, then ``all``; None when it never is."""
        if not self.epochs:
            return None
        return HEAD_PHASE if epoch < self.epochs else ALL_PHASE

    def begin_epoch(self, epoch: int) -> bool:
        """Freeze or thaw for ``epoch``; True when the network changed and has to be compiled again."""
        is_frozen, is_wanted = bool(self._grad_reqs), epoch < self.epochs
        if is_frozen == is_wanted:
            return False
        mx.nd.waitall()
        if is_wanted:
            _log.info("Backbone frozen: the heads are trained until the end of epoch %d", self.epochs - 1)
        else:
            _log.info("Backbone no longer frozen: everything is trained from epoch %d on", epoch)
        for name, parameter in self._network._collect_params_with_prefix().items():
            if not name.startswith(self._heads):
                if is_wanted:
                    self._grad_reqs[name] = parameter.grad_req
                parameter.grad_req = "null" if is_wanted else self._grad_reqs.pop(name)
        self._fix_statistics(is_wanted)
        # This drops the compiled graph: the kind of batch norm and the gradients are built into it.
        self._network.hybridize(static_alloc=True)
        return True

    def _fix_statistics(self, is_fixed: bool) -> None:
        def fix(block: Any) -> None:
            if isinstance(block, mx.gluon.nn.BatchNorm):
                block._kwargs["use_global_stats"] = is_fixed

        for name, child in self._network._children.items():
            if not f"{name}.".startswith(self._heads):
                child.apply(fix)
