"""The training loop: updates, validation on centre crops, the best epoch, an early end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluonseg.data.loader import Batch, Loader
from gluonseg.errors import TrainingDivergedError
from gluonseg.metrics import Confusion, compute_confusion
from gluonseg.train.checkpoint import Checkpoint
from gluonseg.train.early_stop import EarlyStopping
from gluonseg.train.freeze import HEAD_PHASE, Freeze
from gluonseg.train.listener import EpochPart, EpochResult, Listener
from gluonseg.train.schedule import Schedule
from gluonseg.train.step import Stepper, check_finite, check_finite_parameters
from gluonseg.train.stop import Stop


def seed_update(seed: int, number: int) -> None:
    """Seed MXNet's generators, on every device, from the seed of the job and the number of the update (from 0)."""
    # Mixed, so that update 1 of seed 0 is not update 0 of seed 1.
    mx.random.seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) & 0x7FFFFFFF)


@dataclass
class Loop:
    """Trains ``network`` for ``epochs`` epochs.

    ``results`` are those of all epochs that were run, ``part`` is what the one after them has given so far.
    """

    network: Any
    stepper: Stepper
    schedule: Schedule
    training: Loader
    validation: Loader
    num_classes: int
    epochs: int
    listener: Listener
    device: Any
    seed: int = 0
    early_stopping: EarlyStopping | None = None
    freeze: Freeze | None = None
    stop: Stop = field(default_factory=Stop)
    results: list[EpochResult] = field(default_factory=list)
    part: EpochPart = field(default_factory=EpochPart)
    checkpoint: Checkpoint | None = None

    @property
    def is_finished(self) -> bool:
        """Whether there is no epoch left to train."""
        return len(self.results) >= self.epochs or self._find_early_end() is not None

    def resume(self, checkpoint: Checkpoint) -> None:
        """Save to ``checkpoint`` after each epoch and now and then in it, and go on after what is there already.

        Raises:
            UserError: the checkpoints cannot be used.
        """
        self.results, self.part = checkpoint.resume()
        self.checkpoint = checkpoint

    def save(self) -> None:
        """Save what there is, if there is a place for it and if it is not there already."""
        if self.checkpoint:
            self.checkpoint.save(self.results, self.part)

    def run(self) -> list[EpochResult]:
        """Train, and return the results.

        Raises:
            TrainingDivergedError: the loss or a parameter is no longer finite.
            Stopped: the stop was asked for.
        """
        self.listener.on_start(self.epochs, self.training.count_batches(0))
        try:
            if self.results:
                self.listener.on_resume(self.results)
            while not self.is_finished:
                self._run_epoch(len(self.results))
            if reason := self._find_early_end():
                self.listener.on_stop_early(self.results[-1].epoch, reason)
        finally:
            self.listener.on_end()
        return self.results

    def _run_epoch(self, epoch: int) -> None:
        if self.freeze and self.freeze.begin_epoch(epoch):
            self.stepper.forget_compiled()
        phase = self.freeze.get_phase(epoch) if self.freeze else None
        rate = self._train_epoch(epoch)
        loss, train_throughput = self.part.loss / self.part.updates, self.part.samples / max(self.part.seconds, 1e-9)
        self.listener.on_train_epoch(epoch, loss, train_throughput)
        confusion, throughput = self._validate_epoch(epoch)
        result = EpochResult(epoch, rate, loss, train_throughput, confusion, throughput, phase)
        is_best = all(result.miou > earlier.miou for earlier in self.results)
        self.results.append(result)
        self.part = EpochPart()
        try:
            self.listener.on_epoch(result, is_best)
        finally:
            # Even when there is no room for the model: the checkpoint may be on another disk.
            self.save()

    def _find_early_end(self) -> str | None:
        """Why training ends before its last epoch, if it does."""
        if not self.results or len(self.results) >= self.epochs or not self.early_stopping:
            return None
        # What the heads reach on a frozen backbone says nothing about the second stage, which is still to come.
        history = [result.miou for result in self.results if result.phase != HEAD_PHASE]
        if not self.early_stopping.should_stop(history):
            return None
        patience = self.early_stopping.patience
        return f"validation mIOU has not risen above {max(history):.6f} for {patience} epochs"

    def _train_epoch(self, epoch: int) -> float:
        """Make the updates of the epoch that are still to be made; returns the last learning rate."""
        part, start = self.part, time.perf_counter()
        earlier = sum(self.training.count_batches(number) for number in range(epoch))
        for iteration, batch in enumerate(self.training.iter_batches(epoch, part.updates), start=part.updates + 1):
            self.stop.check()
            loss = self._update(batch, epoch, iteration, earlier + iteration - 1)
            seconds = part.seconds + time.perf_counter() - start
            self.part = EpochPart(iteration, self.part.loss + loss, self.part.samples + len(batch.images), seconds)
            if self.checkpoint and self.checkpoint.is_due():
                # A good checkpoint must not give way to one of a network that is lost.
                check_finite_parameters(self.network, self.device, epoch, iteration)
                self.save()
        check_finite_parameters(self.network, self.device, epoch, self.part.updates)
        return self.schedule(earlier + self.part.updates - 1)

    def _update(self, batch: Batch, epoch: int, iteration: int, number: int) -> float:
        """Make update ``number`` of the job (from 0), ``iteration`` of ``epoch`` (from 1); returns its loss."""
        # Of dropout, too, an update then depends on its number alone, and not on all that was drawn before: a job that
        # goes on from a checkpoint draws what it would have drawn without the interruption.
        seed_update(self.seed, number)
        rate = self.schedule(number)
        loss = float(self.stepper.update(batch, rate).asscalar())
        check_finite(loss, epoch, iteration)
        self.listener.on_update(epoch, iteration, len(batch.images), rate)
        return loss

    def _validate_epoch(self, epoch: int) -> tuple[Confusion, float]:
        """Confusion over the centre crops of the validation set, and samples/s."""
        start, samples, confusion = time.perf_counter(), 0, Confusion.empty(self.num_classes)
        for iteration, batch in enumerate(self.validation.iter_batches(epoch), start=1):
            self.stop.check()
            confusion += compute_confusion(batch.class_ids, self._predict(batch, epoch), self.num_classes)
            samples += len(batch.images)
            self.listener.on_validation_batch(epoch, iteration, len(batch.images))
        return confusion, samples / (time.perf_counter() - start)

    def _predict(self, batch: Batch, epoch: int) -> npt.NDArray[np.uint8]:
        try:
            return self.stepper.predict(batch.images)
        except FloatingPointError as error:
            # The last update can spoil what the loss before it and the parameters after it do not show.
            raise TrainingDivergedError(
                f"{error} after epoch {epoch}, iteration {self.part.updates}; lower learning_rate"
            ) from None
