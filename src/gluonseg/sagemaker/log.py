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
            # The reader has left or the disk is full. The training goes on, and the rest of the log is thrown away:
            # Python would try to write it at its end, and fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception:
            self.handleError(record)


def configure_logging() -> None:
    """Send the program's log to standard output in the built-in's format."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names of any alphabet, also where the locale has no letters for it.
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # The toolkit logs each hyperparameter that is not JSON, such as every plain word; matplotlib its search for fonts.
    for name in ("sagemaker-training-toolkit", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def shorten_values(raw: Mapping[str, Any]) -> dict[str, str]:
    """Hyperparameters as given, for the log: a value may be a megabyte long."""
    return {str(name)[:MAX_VALUE_LENGTH]: shorten(str(value), MAX_VALUE_LENGTH) for name, value in raw.items()}


class ProgressLog:
    """Logs progress every ``interval_s`` seconds of long work; ``template`` takes the numbers done and in all."""

    def __init__(self, template: str, interval_s: float = 10.0) -> None:
        self._template = template
        self._interval_s = interval_s
        self._last_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        self._last_s = self._last_s or now_s
        if now_s - self._last_s >= self._interval_s:
            _log.info(self._template, done, total)
            self._last_s = now_s


class LogLines(Listener):
    """The built-in's lines: notices, metrics and progress, in its order."""

    def __init__(self, host: str, frequency: int) -> None:
        self._host = host
        self._frequency = frequency
        self._epochs = self._samples = 0
        self._setup_s = 0.0
        self._job_start = self._epoch_start = self._notice_start = time.time()

    def on_start(self, epochs: int, iterations: int) -> None:
        self._epochs = epochs
        self._setup_s = time.time() - self._job_start
        _log.info("LRScheduler setup: iters per epoch: %d, num_epochs %d", iterations, epochs)
        self._log_metrics({}, Meta="init_train_data_iter")
        self._reset()

    def on_update(self, epoch: int, iteration: int, samples: int, learning_rate: float) -> None:
        self._log_speed(epoch, iteration, samples, f" learning_rate: {learning_rate:.6f}")

    def on_train_epoch(self, epoch: int, loss: float, throughput: float) -> None:
        _log.info("#quality_metric. host: %s, epoch: %d, train loss: %s .", self._host, epoch, loss)
        template = "#throughput_metric. host: %s, epoch: %d, train throughput: %s samples/sec."
        _log.info(template, self._host, epoch, throughput)
        self._reset()

    def on_validation_batch(self, epoch: int, iteration: int, samples: int) -> None:
        self._log_speed(epoch, iteration, samples)

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        host, epoch, confusion = self._host, result.epoch, result.confusion
        accuracy = confusion.compute_pixel_accuracy()
        # gluonseg.sagemaker.metric_definitions has the patterns that find these lines.
        _log.info("#quality_metric. host: %s, epoch: %d, validation pixel_accuracy: %s .", host, epoch, accuracy)
        _log.info("#quality_metric. host: %s, epoch: %d, validation mIOU: %s .", host, epoch, result.miou)
        template = "#throughput_metric. host: %s, epoch: %d, validation throughput: %s samples/sec."
        _log.info(template, host, epoch, result.validation_throughput)

    def log_progress(self, epoch: int) -> None:
        """The line after an epoch's models are written."""
        share = 100.0 * (epoch + 1) / max(1, self._epochs)
        _log.info("#progress_metric: host=%s, completed %s %% of epochs", self._host, share)
        self._log_metrics({"update.time": (time.time() - self._epoch_start) * 1000}, epoch=epoch)
        self._epoch_start = time.time()
        self._reset()

    def on_stop_early(self, epoch: int, reason: str) -> None:
        _log.info("Early stopping after epoch %d: %s", epoch, reason)

    def on_end(self) -> None:
        self._epoch_start = self._job_start
        seconds = {"setuptime": self._setup_s, "totaltime": time.time() - self._job_start}
        self._log_metrics({"epochs": float(self._epochs), **{name: s * 1000 for name, s in seconds.items()}})

    def _reset(self) -> None:
        self._notice_start, self._samples = time.time(), 0

    def _log_speed(self, epoch: int, iteration: int, samples: int, rest: str = "") -> None:
        """The notice that is due every ``frequency`` batches, with the samples/s since the last one."""
        self._samples += samples
        if iteration % self._frequency == 0:
            speed = self._samples / max(time.time() - self._notice_start, 1e-9)
            notice = "#progress_notice. epoch: %d, iterations: %d speed: %s samples/sec%s"
            _log.info(notice, epoch, iteration, speed, rest)
            self._reset()

    def _log_metrics(self, metrics: dict[str, float], **dimensions: Any) -> None:
        entry = {name: {"count": 1, "max": value, "sum": value, "min": value} for name, value in metrics.items()}
        dimensions = {"Meta": "training_data_iter", **dimensions}
        line = {
            "Metrics": entry,
            "EndTime": time.time(),
            "StartTime": self._epoch_start,
            "Dimensions": {"Host": self._host, "Operation": "training", "Algorithm": ALGORITHM, **dimensions},
        }
        _log.info(_METRICS, json.dumps(line))


class ProgressLine(Listener):
    """Logs the end of an epoch; it is listed after the writer of the models, whose lines come first."""

    def __init__(self, lines: LogLines) -> None:
        self._lines = lines

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        self._lines.log_progress(result.epoch)


class ProgressBar(Listener):
    """A bar on standard error, one for each epoch."""

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
    """Whether a person looks at the output: both streams are a terminal, and this is no job.

    SageMaker's local mode gives its containers a terminal and writes their output into a log.
    """
    is_job = "TRAINING_JOB_NAME" in os.environ or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and sys.stderr.isatty() and not is_job
