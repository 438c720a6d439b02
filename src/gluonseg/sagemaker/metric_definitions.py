"""The metric definitions that SDK users hand to an Estimator or ModelTrainer.

SageMaker finds metrics of the built-in algorithm by itself; for any other image the caller says how to
read them from the log: ``Estimator(..., metric_definitions=gluonseg.METRIC_DEFINITIONS)``.
"""

from __future__ import annotations

_NUMBER = r"([0-9.eE+-]+)"
_QUALITY = r"#quality_metric\. host: \S+, epoch: \d+, "
_THROUGHPUT = r"#throughput_metric\. host: \S+, epoch: \d+, "

METRIC_DEFINITIONS: list[dict[str, str]] = [
    {"Name": "train:loss", "Regex": rf"{_QUALITY}train loss: ([0-9.eE+-]+|nan|inf)"},
    {"Name": "train:throughput", "Regex": rf"{_THROUGHPUT}train throughput: {_NUMBER}"},
    {"Name": "validation:pixel_accuracy", "Regex": rf"{_QUALITY}validation pixel_accuracy: {_NUMBER}"},
    {"Name": "validation:mIOU", "Regex": rf"{_QUALITY}validation mIOU: {_NUMBER}"},
    {"Name": "validation:throughput", "Regex": rf"{_THROUGHPUT}validation throughput: {_NUMBER}"},
    {"Name": "validation:whole_image_mIoU", "Regex": rf"#whole_image_metric\. host: \S+, mIoU: {_NUMBER}"},
    {"Name": "validation:whole_image_pixel_accuracy",
     "Regex": rf"#whole_image_metric\. host: \S+, pixel_accuracy: {_NUMBER}"},
]  # fmt: skip
