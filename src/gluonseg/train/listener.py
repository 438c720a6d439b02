"""The events of the training loop, and what is known after each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gluonseg.metrics import Confusion


@dataclass(frozen=True)
class EpochResult:
    """One epoch. Throughputs are samples/s; ``confusion`` is of the validation set's centre crops or whole photos.

    ``phase`` says what was trained, when training has two stages: ``head`` or ``all``.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_throughput: float
    confusion: Confusion
    validation_throughput: float
    phase: str | None = None

    @property
    def miou(self) -> float:
        """``validation:mIOU``, in the built-in's convention."""
        return self.confusion.compute_builtin_miou()


@dataclass(frozen=True)
class EpochPart:
    """The first ``updates`` updates of an epoch: the sum of their losses, their samples, and the seconds they took."""

    updates: int = 0
    loss: float = 0.0
    samples: int = 0
    seconds: float = 0.0


class Listener:
    """Hears of everything the loop does: override the events of interest. Heavy work belongs in on_epoch."""

    def on_start(self, epochs: int, iterations: int) -> None:
        """Before the first epoch; ``iterations`` is the number of updates in an epoch."""

    def on_resume(self, results: Sequence[EpochResult]) -> None:
        """After on_start, when a checkpoint has brought the epochs of ``results``, which are not run again."""

    def on_update(self, epoch: int, iteration: int, samples: int, learning_rate: float) -> None:
        """After update ``iteration`` (1-based) of ``epoch``, on ``samples`` crops."""

    def on_validation_batch(self, epoch: int, iteration: int, samples: int) -> None:
        """After validation batch ``iteration`` (1-based) of ``epoch``."""

    def on_train_epoch(self, epoch: int, loss: float, throughput: float) -> None:
        """After the last update of ``epoch``, before validation."""

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        """After validation; ``is_best`` when validation mIOU is the highest so far."""

    def on_stop_early(self, epoch: int, reason: str) -> None:
        """When training ends before its last epoch."""

    def on_end(self) -> None:
        """After the last epoch, also when the loop ends by an error."""
