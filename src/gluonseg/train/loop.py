"""The training loop: updates, validation on centre crops, the best epoch, an early end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import mxnet as mx
import numpy as np

from gluonseg.data.loader import Loader
from gluonseg.metrics import Confusion, compute_confusion
from gluonseg.predict.preprocess import normalise_images
from gluonseg.schedules import Schedule
from gluonseg.train.early_stop import EarlyStopping
from gluonseg.train.freeze import HEAD_PHASE, Freeze
from gluonseg.train.listener import EpochResult, Listener
from gluonseg.train.step import Stepper, check_finite, check_finite_parameters
from gluonseg.train.stop import Stop


@dataclass
class Loop:
    """Trains ``network`` for ``epochs`` epochs; ``results`` are those of all epochs that were run."""

    network: Any
    stepper: Stepper
    schedule: Schedule
    training: Loader
    validation: Loader
    num_classes: int
    epochs: int
    listener: Listener
    device: Any
    dtype: str = "float32"
    early_stopping: EarlyStopping | None = None
    freeze: Freeze | None = None
    stop: Stop = field(default_factory=Stop)
    results: list[EpochResult] = field(default_factory=list)
    _updates: int = 0

    def run(self) -> list[EpochResult]:
        """Train, and return the results.

        Raises:
            TrainingDivergedError: the loss or a parameter is no longer finite.
            Stopped: the stop was asked for.
        """
        self.listener.on_start(self.epochs, self.training.count_batches(0))
        try:
            for epoch in range(self.epochs):
                self._run_epoch(epoch)
                if self._should_stop(epoch):
                    break
        finally:
            self.listener.on_end()
        return self.results

    def _run_epoch(self, epoch: int) -> None:
        if self.freeze and self.freeze.begin_epoch(epoch):
            self.stepper.forget_compiled()
        phase = self.freeze.get_phase(epoch) if self.freeze else None
        loss, train_throughput, rate = self._train_epoch(epoch)
        self.listener.on_train_epoch(epoch, loss, train_throughput)
        confusion, throughput = self._validate_epoch(epoch)
        result = EpochResult(epoch, rate, loss, train_throughput, confusion, throughput, phase)
        is_best = all(result.miou > earlier.miou for earlier in self.results)
        self.results.append(result)
        self.listener.on_epoch(result, is_best)

    def _should_stop(self, epoch: int) -> bool:
        is_last = epoch + 1 == self.epochs
        if is_last or not self.early_stopping:
            return False
        # What the heads reach on a frozen backbone says nothing about the second stage, which is still to come.
        history = [result.miou for result in self.results if result.phase != HEAD_PHASE]
        if not self.early_stopping.should_stop(history):
            return False
        best = max(history)
        patience = self.early_stopping.patience
        self.listener.on_stop_early(epoch, f"validation mIOU has not risen above {best:.6f} for {patience} epochs")
        return True

    def _train_epoch(self, epoch: int) -> tuple[float, float, float]:
        """Mean loss of the epoch, samples/s, and the last learning rate."""
        start, total, samples, iteration, rate = time.perf_counter(), 0.0, 0, 0, 0.0
        for iteration, batch in enumerate(self.training.iter_batches(epoch), start=1):
            self.stop.check()
            rate = self.schedule(self._updates)
            loss = float(self.stepper.update(batch, rate).asscalar())
            check_finite(loss, epoch, iteration)
            self._updates += 1
            total += loss
            samples += len(batch.images)
            self.listener.on_update(epoch, iteration, len(batch.images), rate)
        check_finite_parameters(self.network, self.device, epoch, iteration)
        return total / max(1, iteration), samples / (time.perf_counter() - start), rate

    def _validate_epoch(self, epoch: int) -> tuple[Confusion, float]:
        """Confusion over the centre crops of the validation set, and samples/s."""
        start, samples, confusion = time.perf_counter(), 0, Confusion.empty(self.num_classes)
        for iteration, batch in enumerate(self.validation.iter_batches(epoch), start=1):
            self.stop.check()
            images = mx.nd.array(normalise_images(batch.images), ctx=self.device, dtype=self.dtype)
            predicted = self.network(images)[0].argmax(axis=1).asnumpy().astype(np.int64)
            confusion += compute_confusion(batch.class_ids, predicted, self.num_classes)
            samples += len(batch.images)
            self.listener.on_validation_batch(epoch, iteration, len(batch.images))
        return confusion, samples / (time.perf_counter() - start)
