#!/usr/bin/env python3
"""SageMaker local mode with SDK v3: train, deploy, predict, batch transform, and clean up, on this machine.

    python local_mode/train_deploy_v3.py                                  draws a small data set and trains on it
    python local_mode/train_deploy_v3.py --data FOLDER --epochs 30 --set crop_size=240 base_size=240

FOLDER holds the channels: train, train_annotation, validation, validation_annotation, and maybe label_map.
Neither an AWS account nor credentials nor a region are needed, and nothing is sent to anybody.
The calls of the SDK are here and in session_v3.py.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from example import (
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
from probability import read_probabilities
from sagemaker.core.local import LocalSession
from sagemaker.core.transformer import Transformer
from session_v3 import NAME, deployed_endpoint, open_session, registered_model, train


def transform(session: LocalSession, instance_type: str, photos: Path, output: Path) -> None:
    """Send every photo of a folder; the answer to a.jpg is a.jpg.out."""
    transformer = Transformer(
        NAME, 1, instance_type, accept="image/png", output_path=output.as_uri(), sagemaker_session=session
    )
    # With a name of its own: to make one up, SDK v3 would ask AWS for the model.
    transformer.transform(photos.as_uri(), content_type="image/jpeg", job_name=NAME)


def main() -> None:
    """All steps."""
    arguments = parse_arguments(__doc__, Path("demo/sdk_v3"))
    output = arguments.output.resolve()
    with open_session(arguments.image, arguments.port) as session:
        say("1. The data")
        data = arguments.data.resolve() if arguments.data else draw_data(output / "data")
        photo = find_photo(data)
        job = build_job(arguments, data, output / "model")
        say(f"2. Train: {arguments.algorithm} on {arguments.backbone}, {arguments.epochs} epochs")
        try:
            with follow_training() as training:
                model = train(session, job)
        except RuntimeError:
            sys.exit("the training failed; its last lines, above, say why")
        say(f"3. Deploy, and predict {photo.name} with image/png and with application/x-protobuf")
        with deployed_endpoint(session, job, model) as ask:
            probabilities = read_probabilities(ask(photo, "application/x-protobuf"))
            masks = {
                "image/png": parse_mask(ask(photo, "image/png")),
                # Of the probabilities, the largest makes the class of a pixel.
                "application/x-protobuf": probabilities[0].argmax(axis=0).astype(np.uint8),
            }
        # After the endpoint is gone: both would listen on the same port.
        say("4. Batch transform of all validation photos")
        with registered_model(session, job, model), tempfile.TemporaryDirectory() as photos:
            # A copy, because the SDK transforms nothing below /root, which is some people's home.
            shutil.copytree(data / "validation", photos, dirs_exist_ok=True)
            transform(session, arguments.instance_type, Path(photos), output / "masks")
        masks["batch transform"] = parse_mask((output / "masks" / f"{photo.name}.out").read_bytes())
        check_equal(masks)
    report(training, model, output / "masks", photo, masks)


if __name__ == "__main__":
    main()
