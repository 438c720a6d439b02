#!/usr/bin/env python3
"""SageMaker local mode with SDK v2: train, deploy, predict, batch transform, and clean up, on this machine.

    python local_mode/train_deploy_v2.py                                  draws a small data set and trains on it
    python local_mode/train_deploy_v2.py --data FOLDER --epochs 30 --set crop_size=240 base_size=240

FOLDER holds the channels: train, train_annotation, validation, validation_annotation, and maybe label_map.
The calls of the SDK are here and in session_v2.py.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from example import (
    Mask,
    build_job,
    check_equal,
    draw_data,
    find_photo,
    follow_training,
    parse_arguments,
    parse_mask,
    report,
    say,
)
from sagemaker.amazon.common import read_records
from sagemaker.estimator import Estimator
from session_v2 import deployed_endpoint, open_session, train


def parse_protobuf(answer: bytes) -> Mask:
    """The answer to ``Accept: application/x-protobuf``: probabilities, the largest of which makes a pixel's class."""
    (record,) = read_records(io.BytesIO(answer))
    values = list(record.features["target"].float32_tensor.values)
    shape = np.squeeze(list(record.features["shape"].int32_tensor.values))
    probabilities = np.reshape(np.array(values), shape).squeeze(axis=0)
    mask: Mask = np.argmax(probabilities, axis=0).astype(np.uint8)
    return mask


def transform(estimator: Estimator, instance_type: str, photos: Path, output: Path) -> None:
    """Send every photo of a folder; the answer to a.jpg is a.jpg.out."""
    # SingleRecord: with the default, local mode takes every file for text.
    transformer = estimator.transformer(
        1, instance_type, strategy="SingleRecord", accept="image/png", output_path=output.as_uri()
    )
    # The job is done when transform returns; wait=True would ask AWS for its log.
    transformer.transform(photos.as_uri(), content_type="image/jpeg", wait=False)


def main() -> None:
    """All steps."""
    arguments = parse_arguments(__doc__, Path("demo/sdk_v2"))
    output = arguments.output.resolve()
    with open_session(arguments.image, arguments.port) as session:
        say("1. The data")
        data = arguments.data.resolve() if arguments.data else draw_data(output / "data")
        photo = find_photo(data)
        job = build_job(arguments, data, output / "model")
        say(f"2. Train: {arguments.algorithm} on {arguments.backbone}, {arguments.epochs} epochs")
        try:
            with follow_training() as training:
                estimator = train(session, job)
        except RuntimeError:
            sys.exit("the training failed; its last lines, above, say why")
        say(f"3. Deploy, and predict {photo.name} with image/png and with application/x-protobuf")
        with deployed_endpoint(session, job, estimator) as ask:
            masks = {
                "image/png": parse_mask(ask(photo, "image/png")),
                "application/x-protobuf": parse_protobuf(ask(photo, "application/x-protobuf")),
            }
        # After the endpoint is gone: both would listen on the same port.
        say("4. Batch transform of all validation photos")
        with tempfile.TemporaryDirectory() as photos:
            # A copy, because the SDK transforms nothing below /root, which is some people's home.
            shutil.copytree(data / "validation", photos, dirs_exist_ok=True)
            transform(estimator, arguments.instance_type, Path(photos), output / "masks")
        masks["batch transform"] = parse_mask((output / "masks" / f"{photo.name}.out").read_bytes())
        check_equal(masks)
    report(training, job.output / "model.tar.gz", output / "masks", photo, masks)


if __name__ == "__main__":
    main()
