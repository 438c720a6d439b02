"""The log of a training job, line by line as the built-in algorithm writes it."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from gluonseg.metrics import Confusion
from gluonseg.text import LineFormatter, shorten
from gluonseg.train.listener import EpochResult, Listener

_log = logging.getLogger(__name__)
_METRICS = "#metrics %s"
ALGORITHM = "AWS/Semantic Segmentation"
MAX_VALUE_LENGTH = 200


class _Formatter(LineFormatter):
    """``[MM/DD/YYYY HH:MM:SS LEVEL thread] text``; ``#metrics`` lines stand alone, as the built-in prints them."""

    def __init__(self) -> None:
        super().__init__("[%(asctime)s %(levelname)s %(thread)d] %(message)s", "%m/%d/%Y %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return record.message if record.msg == _METRICS else super().formatMessage(record)


class _Handler(logging.Handler):
    """Writes to standard output around a progress bar, when there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError:
            pass  # nobody reads the log any more, or there is no room for it: no reason to end a training
        except Exception:
            self.handleError(record)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the program's log to standard output in the built-in's format."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of any alphabet, and such that are no text at all, whatever the locale has letters for.
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # The toolkit reports each hyperparameter that is not JSON, which for plain strings is all of them.
    logging.getLogger("sagemaker-training-toolkit").setLevel(max(level, logging.WARNING))
    # That it looks for fonts, in every new container, is nobody's business.
    logging.getLogger("matplotlib").setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def open_closed_streams() -> None:
    """Give a process that was started without standard streams some that go nowhere.

    Else the next files that it opens would have their numbers, and be written into by whatever writes to these.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    # Not closed by anybody: they are the program's for as long as it runs.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def drop_unwritten() -> None:
    """Forget what of the log cannot be written: Python would try again at its end, and make that a failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def shorten_values(raw: Mapping[str, Any]) -> dict[str, str]:
    """Hyperparameters as given, for the log: a value may be a megabyte long."""
    return {str(name)[:MAX_VALUE_LENGTH]: shorten(str(value), MAX_VALUE_LENGTH) for name, value in raw.items()}


class ProgressLog:
    """A line now and then during work that takes minutes for many photos; ``template`` takes done and total."""

    def __init__(self, template: str, interval_s: float = 10.0) -> None:
        self._template = template
        self._interval_s = interval_s
        self._last: float | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._last is None:
            self._last = now
        elif now - self._last >= self._interval_s:
            _log.info(self._template, done, total)
            self._last = now


class _Moment:
    """Now. ``clock`` is what a clock on the wall says, in seconds since 1970; it may be set while the job runs."""

    def __init__(self) -> None:
        self.clock, self._monotonic = time.time(), time.monotonic()

    def measure_s(self) -> float:
        """Seconds since then, whatever was done to the clock."""
        return time.monotonic() - self._monotonic


class LogLines(Listener):
    """The built-in's lines: notices, metrics and progress, in its order."""

    def __init__(self, host: str, frequency: int) -> None:
        self._host = host
        self._frequency = frequency
        self._epochs = 0
        self._setup_s = 0.0
        self._job_start = self._epoch_start = self._mark = _Moment()
        self._samples = 0

    def on_start(self, epochs: int, iterations: int) -> None:
        self._epochs = epochs
        self._setup_s = self._job_start.measure_s()
        _log.info("LRScheduler setup: iters per epoch: %d, num_epochs %d", iterations, epochs)
        self._log_metrics({}, Meta="init_train_data_iter")
        self._reset()

    def on_update(self, epoch: int, iteration: int, samples: int, learning_rate: float) -> None:
        speed = self._compute_speed(iteration, samples)
        if speed is not None:
            notice = "#progress_notice. epoch: %d, iterations: %d speed: %s samples/sec learning_rate: %.6f"
            _log.info(notice, epoch, iteration, speed, learning_rate)

    def on_train_epoch(self, epoch: int, loss: float, throughput: float) -> None:
        _log.info("#quality_metric. host: %s, epoch: %d, train loss: %s .", self._host, epoch, loss)
        template = "#throughput_metric. host: %s, epoch: %d, train throughput: %s samples/sec."
        _log.info(template, self._host, epoch, throughput)
        self._reset()

    def on_validation_batch(self, epoch: int, iteration: int, samples: int) -> None:
        speed = self._compute_speed(iteration, samples)
        if speed is not None:
            _log.info("#progress_notice. epoch: %d, iterations: %d speed: %s samples/sec", epoch, iteration, speed)

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        host, epoch, confusion = self._host, result.epoch, result.confusion
        quality = "#quality_metric. host: %s, epoch: %d, validation %s: %s ."
        _log.info(quality, host, epoch, "pixel_accuracy", confusion.compute_pixel_accuracy())
        _log.info(quality, host, epoch, "mIOU", result.miou)
        template = "#throughput_metric. host: %s, epoch: %d, validation throughput: %s samples/sec."
        _log.info(template, host, epoch, result.validation_throughput)

    def log_progress(self, epoch: int) -> None:
        """The line after an epoch's models are written."""
        share = 100.0 * (epoch + 1) / max(1, self._epochs)
        _log.info("#progress_metric: host=%s, completed %s %% of epochs", self._host, share)
        self._log_metrics({"update.time": self._epoch_start.measure_s() * 1000}, epoch=epoch)
        self._epoch_start = _Moment()
        self._reset()

    def on_stop_early(self, epoch: int, reason: str) -> None:
        _log.info("Early stopping after epoch %d: %s", epoch, reason)

    def on_end(self) -> None:
        self._epoch_start = self._job_start
        total_s = self._job_start.measure_s()
        self._log_metrics(
            {"epochs": float(self._epochs), "setuptime": self._setup_s * 1000, "totaltime": total_s * 1000}
        )

    def _reset(self) -> None:
        self._mark, self._samples = _Moment(), 0

    def _compute_speed(self, iteration: int, samples: int) -> float | None:
        """Samples/s since the last notice, when one is due."""
        self._samples += samples
        if iteration % self._frequency:
            return None
        speed = self._samples / max(self._mark.measure_s(), 1e-9)
        self._reset()
        return speed

    def _log_metrics(self, metrics: dict[str, float], **dimensions: Any) -> None:
        entry = {name: {"count": 1, "max": value, "sum": value, "min": value} for name, value in metrics.items()}
        dimensions = {"Meta": "training_data_iter", **dimensions}
        line = {
            "Metrics": entry,
            "EndTime": time.time(),
            "StartTime": self._epoch_start.clock,
            "Dimensions": {"Host": self._host, "Operation": "training", "Algorithm": ALGORITHM, **dimensions},
        }
        _log.info(_METRICS, json.dumps(line))


class ProgressLine(Listener):
    """Closes an epoch of ``lines``; listed after the writer of the models, whose lines come before it."""

    def __init__(self, lines: LogLines) -> None:
        self._lines = lines

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        self._lines.log_progress(result.epoch)


class ProgressBar(Listener):
    """A bar on standard error for a person who watches: one epoch at a time."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._epochs = self._iterations = 0

    def on_start(self, epochs: int, iterations: int) -> None:
        self._epochs, self._iterations = epochs, iterations

    def on_update(self, epoch: int, iteration: int, samples: int, learning_rate: float) -> None:
        if self._bar is None:
            title = f"epoch {epoch + 1}/{self._epochs}"
            self._bar = tqdm(total=self._iterations, desc=title, unit="batch", leave=False, file=sys.stderr)
        self._bar.update(1)

    def on_train_epoch(self, epoch: int, loss: float, throughput: float) -> None:
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}, validating")

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        self.on_end()

    def on_end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def log_whole_image(host: str, confusion: Confusion, class_names: Sequence[str]) -> None:
    """Log the best epoch's numbers on whole images: mIoU over present classes, accuracy, IoU by class."""
    _log.info("#whole_image_metric. host: %s, mIoU: %s .", host, confusion.compute_miou())
    _log.info("#whole_image_metric. host: %s, pixel_accuracy: %s .", host, confusion.compute_pixel_accuracy())
    for name, iou in zip(class_names, confusion.compute_class_iou(), strict=True):
        _log.info("#whole_image_metric. host: %s, IoU of %s: %s .", host, name, iou)


def is_watched() -> bool:
    """Whether a person looks at the output: both streams are a terminal, and that of no job.

    SageMaker's local mode gives its containers a terminal and writes what comes out into a log.
    """
    is_job = "TRAINING_JOB_NAME" in os.environ or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and sys.stderr.isatty() and not is_job
