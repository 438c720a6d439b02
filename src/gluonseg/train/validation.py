"""The validation of an epoch, with the network as it is then: on centre crops in batches, or on whole photos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mxnet as mx

from gluonseg.data.loader import Loader
from gluonseg.errors import TrainingDivergedError
from gluonseg.metrics import Confusion, compute_confusion
from gluonseg.models.folder.card import ModelCard
from gluonseg.predict.evaluation import Prediction, iter_predictions
from gluonseg.predict.mxnet_engine import MXNetEngine
from gluonseg.predict.predictor import Predictor
from gluonseg.train.group import Group
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop

_COMPILED = "100"
"""For each kind of operator; a training needs a few dozen."""


class CropValidation:
    """Scores centre crops in batches, as the built-in does, by the compiled network of the training."""

    def __init__(self, stepper: Stepper, loader: Loader, num_classes: int, group: Group, stop: Stop) -> None:
        self.loader = loader
        self._stepper = stepper
        self._num_classes = num_classes
        self._group = group
        self._stop = stop

    def iter_confusions(self, epoch: int, updates: int) -> Iterator[tuple[int, Confusion]]:
        """For each batch the number of crops of all hosts, and the confusion of this host's; after ``updates`` updates.

        Raises:
            TrainingDivergedError: the network gives values that are not finite.
            Stopped: the stop was asked for.
        """
        for batch in self.loader.iter_batches(epoch):
            self._group.agree_stop(self._stop)
            with _naming_update(epoch, updates):
                predicted = self._stepper.predict(batch.images) if len(batch.images) else batch.class_ids
            yield self.loader.batch_size, compute_confusion(batch.class_ids, predicted, self._num_classes)


class PhotoValidation:
    """Scores whole photos, each once and at its own size, as the finished model is scored and used.

    ``network`` has parameters of ``dtype``; it predicts on ``device``.
    """

    def __init__(
        self, network: Any, dtype: str, card: ModelCard, device: Any, loader: Loader, group: Group, stop: Stop
    ) -> None:
        self.loader = loader
        self._network = network
        self._predictor = Predictor(MXNetEngine(_FiniteNetwork(network, dtype), card, device), card)
        self._group = group
        self._stop = stop

    def iter_confusions(self, epoch: int, updates: int) -> Iterator[tuple[int, Confusion]]:
        """One photo a host at a time; else as :meth:`CropValidation.iter_confusions`."""
        # The training's compiled network stays as it is. Parts that are compiled by themselves would keep the memory
        # that the last photo took.
        self._network.hybridize(False)
        part, num_classes = find_part(self.loader), self._predictor.card.num_classes
        predictions = iter_predictions(self._predictor, self.loader.dataset, num_classes, part)

        def predict_next() -> Prediction | None:
            with _naming_update(epoch, updates):
                return next(predictions, None)

        for count, prediction in iter_rounds(predict_next, len(part), self._group, self._stop):
            yield count, prediction.confusion if prediction else Confusion.empty(num_classes)


Validation = CropValidation | PhotoValidation


class _FiniteNetwork:
    """A network with parameters of ``dtype`` that takes and gives float32.

    Raises FloatingPointError when a value is not finite.
    """

    def __init__(self, network: Any, dtype: str) -> None:
        self._network = network
        self._dtype = dtype

    def predict_coarse(self, x: Any) -> Any:
        logits = self._network.predict_coarse(x.astype(self._dtype, copy=False)).astype("float32", copy=False)
        if not mx.nd.contrib.isfinite(logits).min().asscalar():
            raise FloatingPointError("the network gives values that are not finite")
        return logits


@contextmanager
def _naming_update(epoch: int, updates: int) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        # The last update can spoil what the loss before it and the parameters after it do not show.
        raise TrainingDivergedError(f"{error} after epoch {epoch}, iteration {updates}; lower learning_rate") from None


def bound_compiled() -> None:
    """Have MXNet keep less of what it compiles for each size of photo; call it before anything is computed.

    On a CPU it keeps all for ever: over 400 sizes of 100 to 260 pixels FCN on ResNet-18 grew by 1 GB, and so by 0.1 GB.
    """
    os.environ.setdefault("MXNET_MKLDNN_CACHE_NUM", _COMPILED)


def find_part(loader: Loader) -> range:
    """The photos of the loader that this host predicts: a part, or all where each host has photos of its own."""
    count = len(loader.dataset)
    return range(count) if loader.share.shards else loader.share.cut(count)


def iter_rounds(
    predict_next: Callable[[], Prediction | None], count: int, group: Group, stop: Stop
) -> Iterator[tuple[int, Prediction | None]]:
    """Predict ``count`` photos of this host while the others predict theirs; as many rounds on all hosts.

    Yields the number of photos of all hosts in a round, and this host's photo, None when it has no more. An error on
    one host is raised on all. Raises Stopped before a photo when the stop was asked for.
    """
    counts = group.all_gather(count)
    for number in range(max(counts)):
        group.agree_stop(stop)
        yield sum(number < one for one in counts), group.run_together(predict_next)
