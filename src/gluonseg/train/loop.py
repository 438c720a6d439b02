"""The training loop: updates, validation, the best epoch, an early end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np

from gluonseg.data.loader import Batch, Loader
from gluonseg.errors import TrainingDivergedError
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.metrics import Confusion
from gluonseg.models.registry import find_network
from gluonseg.train.checkpoint import Checkpoint
from gluonseg.train.freeze import HEAD_PHASE, Freeze
from gluonseg.train.group import Group
from gluonseg.train.listener import EpochPart, EpochResult, Listener
from gluonseg.train.schedule import build_schedule
from gluonseg.train.step import Stepper, check_finite_parameters
from gluonseg.train.stop import Stop
from gluonseg.train.validation import Validation

_log = logging.getLogger(__name__)


def seed_update(seed: int, number: int, rank: int = 0) -> None:
    """Seed MXNet's generators on every device: by the job's seed, and the numbers (from 0) of update and host."""
    # Mixed, so that update 1 of seed 0 is not update 0 of seed 1.
    mx.random.seed(int(np.random.SeedSequence([seed, number, rank]).generate_state(1)[0]) & 0x7FFFFFFF)


def is_stale(history: Sequence[float], min_epochs: int, patience: int, tolerance: float) -> bool:
    """Whether training should end: the last ``patience`` epochs or more were not above the best before them.

    ``history`` holds the validation mIOU of every epoch so far. "Above" is by more than ``tolerance``, relative to that
    best. Nothing ends before ``min_epochs`` epochs.
    """
    if len(history) < max(min_epochs, 1):
        return False
    best, stale = history[0], 0
    for value in history[1:]:
        if value > best + abs(best) * tolerance:
            best, stale = value, 0
        else:
            stale += 1
    return stale >= patience


class Loop:
    """Trains ``network`` by the hyperparameters ``hp``.

    ``results`` are those of all epochs that were run; ``part`` is the part of the next epoch that was run.
    """

    def __init__(
        self,
        hp: Hyperparameters,
        network: Any,
        stepper: Stepper,
        training: Loader,
        validation: Validation,
        listeners: Sequence[Listener],
        device: Any,
        stop: Stop,
        group: Group,
    ) -> None:
        self.stepper = stepper
        self.training = training
        self.validation = validation
        self.device = device
        self.results: list[EpochResult] = []
        self.part = EpochPart()
        self._hp = hp
        self._network = network
        self._listeners = listeners
        self._stop = stop
        self._group = group
        self._schedule = build_schedule(hp, self.training.num_samples, self.training.batch_size)
        self._freeze = Freeze(network, hp.freeze_backbone_epochs, find_network(hp.algorithm).heads)
        self._checkpoint: Checkpoint | None = None
        self._has_told = False

    @property
    def is_finished(self) -> bool:
        """Whether there is no epoch left to train."""
        return len(self.results) >= self._hp.epochs or self._find_early_end() is not None

    def resume(self, checkpoint: Checkpoint) -> None:
        """Save to ``checkpoint`` after each epoch and now and then in it, and go on after what is there already.

        Raises:
            UserError: the checkpoints cannot be used.
        """
        self.results, self.part = checkpoint.resume()
        self._checkpoint = checkpoint

    def save(self) -> None:
        """Write a checkpoint of the training as it is, if checkpoints are kept and it is not there already."""
        if self._checkpoint:
            self._checkpoint.save(self.results, self.part)

    def run(self) -> None:
        """Train all epochs that are left.

        Raises:
            TrainingDivergedError: the loss or a parameter is no longer finite.
            Stopped: the stop was asked for.
        """
        iterations = self.training.count_batches(0)
        for listener in self._listeners:
            listener.on_start(self._hp.epochs, iterations)
        try:
            for listener in self._listeners if self.results else ():
                listener.on_resume(self.results)
            while not self.is_finished:
                self._run_epoch(len(self.results))
            if reason := self._find_early_end():
                for listener in self._listeners:
                    listener.on_stop_early(self.results[-1].epoch, reason)
        finally:
            for listener in self._listeners:
                listener.on_end()

    def _find_early_end(self) -> str | None:
        """Why training ends before its last epoch, if it does."""
        hp = self._hp
        if not self.results or len(self.results) >= hp.epochs or not hp.early_stopping:
            return None
        # What the heads reach on a frozen backbone says nothing about the second stage, which is still to come.
        history = [result.miou for result in self.results if result.phase != HEAD_PHASE]
        if not is_stale(history, hp.early_stopping_min_epochs, hp.early_stopping_patience, hp.early_stopping_tolerance):
            return None
        return f"validation mIOU has not risen above {max(history):.6f} for {hp.early_stopping_patience} epochs"

    def _run_epoch(self, epoch: int) -> None:
        if self._freeze.begin_epoch(epoch):
            self.stepper.forget_compiled()
        rate = self._train_epoch(epoch)
        self._log_exchange(epoch)
        loss, train_throughput = self.part.loss / self.part.updates, self.part.samples / max(self.part.seconds, 1e-9)
        for listener in self._listeners:
            listener.on_train_epoch(epoch, loss, train_throughput)
        confusion, throughput = self._validate_epoch(epoch)
        phase = self._freeze.find_phase(epoch)
        result = EpochResult(epoch, rate, loss, train_throughput, confusion, throughput, phase)
        is_best = all(result.miou > earlier.miou for earlier in self.results)
        self.results.append(result)
        self.part = EpochPart()
        try:
            for listener in self._listeners:
                listener.on_epoch(result, is_best)
        finally:
            # Even when there is no room for the model: the checkpoint may be on another disk.
            self.save()

    def _log_exchange(self, epoch: int) -> None:
        """Log what share of the epoch's training the hosts have spent on each other."""
        if exchange := self.stepper.exchange:
            spent, exchange.seconds = exchange.seconds, 0.0
            text = "Communication took %.1f %% of the %.1f s of training in epoch %d"
            _log.info(text, 100 * spent / max(self.part.seconds, 1e-9), self.part.seconds, epoch)

    def _train_epoch(self, epoch: int) -> float:
        """Make the updates of the epoch that are still to be made; returns the last learning rate."""
        part, start = self.part, time.perf_counter()
        earlier = sum(self.training.count_batches(number) for number in range(epoch))
        for iteration, batch in enumerate(self.training.iter_batches(epoch, part.updates), start=part.updates + 1):
            self._stop.check()
            loss = self._update(batch, epoch, iteration, earlier + iteration - 1)
            seconds = part.seconds + time.perf_counter() - start
            samples = self.part.samples + self.training.batch_size
            self.part = EpochPart(iteration, self.part.loss + loss, samples, seconds)
            if self._checkpoint and self._checkpoint.is_due():
                # A good checkpoint must not give way to one of a network that is lost.
                check_finite_parameters(self._network, self.device, epoch, iteration)
                self.save()
        check_finite_parameters(self._network, self.device, epoch, self.part.updates)
        if not self.part.loss and not self._has_told:
            _log.warning("No pixel of the crops of epoch %d is scored: its loss of 0 stands for none", epoch)
            self._has_told = True
        return self._schedule(earlier + self.part.updates - 1)

    def _update(self, batch: Batch, epoch: int, iteration: int, number: int) -> float:
        """Make update ``number`` of the job (from 0), ``iteration`` of ``epoch`` (from 1); returns its loss."""
        # Dropout, too, then depends on the number of the update alone, and not on all that was drawn before: a job that
        # goes on from a checkpoint draws what it would have drawn without the interruption.
        seed_update(self._hp.seed, number, self._group.rank)
        rate = self._schedule(number)
        loss = self.stepper.update(batch, rate)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the training loss became {loss} at epoch {epoch}, iteration {iteration}; "
                "lower learning_rate (or check the masks with gluonseg check)"
            )
        for listener in self._listeners:
            listener.on_update(epoch, iteration, self.training.batch_size, rate)
        return loss

    def _validate_epoch(self, epoch: int) -> tuple[Confusion, float]:
        """Confusion over the validation set, and samples/s."""
        start, own, samples = time.perf_counter(), Confusion.empty(self._hp.num_classes), 0
        confusions = self.validation.iter_confusions(epoch, self.part.updates)
        for iteration, (count, confusion) in enumerate(confusions, start=1):
            own += confusion
            samples += count
            for listener in self._listeners:
                listener.on_validation_batch(epoch, iteration, count)
        total = self._group.sum_confusions(own)
        return total, samples / (time.perf_counter() - start)
