#!/usr/bin/env python3
"""Networks as training jobs and endpoints in SageMaker local mode, compared on this machine.

    .venv-sdk-v2/bin/python local_mode/compare.py                         draws a small data set and compares on it
    .venv-sdk-v3/bin/python local_mode/compare.py --data FOLDER --epochs 30 --set crop_size=240 base_size=240

FOLDER holds the channels: train, train_annotation, validation, validation_annotation, and maybe label_map. Each model
is scored by the answers of its endpoint. The folder of the results is one as `gluonseg compare` writes it; the same
command goes on with one that was interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from endpoint_score import read_truth
from example import build_hyperparameters, build_parser, draw_data, say
from job import Job, find_channels, get_path
from job_run import Comparer, run_all
from price import Seconds, format_costs

from gluonseg.compare.plan import (
    VARIED,
    Comparison,
    build_comparison,
    check_data,
    check_folder,
    parse_values,
    write_comparison,
)
from gluonseg.compare.ranking import format_ranking
from gluonseg.errors import UserError
from gluonseg.models.registry import get_networks
from gluonseg.report.hardware import describe_hardware
from gluonseg.report.record import FAILED
from gluonseg.report.summary import ModelSummary, read_comparison
from gluonseg.train.folder_lock import hold_folder

COSTS_FILE = "costs.txt"


def find_sdk() -> Any:
    """The program of the SDK that this Python has, whose calls are used here too."""
    if find_spec("sagemaker") is None:
        sys.exit("this Python has no SageMaker SDK: make sdk-v2, then .venv-sdk-v2/bin/python local_mode/compare.py")
    return importlib.import_module("train_deploy_v3" if find_spec("sagemaker.train") else "train_deploy_v2")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = build_parser(__doc__, Path("demo/compare"))
    parser.add_argument("--algorithms", default=",".join(get_networks()), help="with commas between them (%(default)s)")
    parser.add_argument("--seeds", default="0", help="with commas between them (%(default)s)")
    parser.add_argument("--instance_type", choices=["local", "local_gpu"], default="local")
    arguments = parser.parse_args()
    own = {"algorithm": "--algorithms", "backbone": "--backbone", "seed": "--seeds", "epochs": "--epochs"}
    for name, _ in arguments.set:
        if name in own:
            parser.error(f"--set {name}: it has an option of its own, {own[name]}")
    return arguments


def build_plan(arguments: argparse.Namespace, data: Path, folder: Path) -> Comparison:
    """What is to be run; UserError for an option that cannot be used."""
    given = {name: str(value) for name, value in build_hyperparameters(arguments, data, "").items()}
    lists = {"algorithms": arguments.algorithms, "backbones": arguments.backbone, "seeds": arguments.seeds}
    channels = {name: get_path(address) for name, address in find_channels(data).items()}
    shared = {name: value for name, value in given.items() if name not in VARIED.values()}
    return build_comparison(data, channels, folder, lists, shared)


def write_report(image: str, comparison: Comparison) -> str:
    """Let the image write the report, which has what that takes; why it could not, if so."""
    data, folder = comparison.data, comparison.folder
    user, volumes = f"{os.getuid()}:{os.getgid()}", ["-v", f"{data}:{data}:ro", "-v", f"{folder}:{folder}"]
    command = ["docker", "run", "--rm", "--network", "none", "--user", user, *volumes, image]
    done = subprocess.run([*command, "gluonseg", "report", str(folder)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["the image wrote no report"])[-1]


def measure(model: ModelSummary) -> Seconds:
    """A model's times, as means over its seeds."""
    training, answer = model.figures["train_seconds"], model.figures["latency_ms"]
    return Seconds(training.mean if training else 0.0, answer.mean / 1000 if answer else 0.0)


def finish(folder: Path, problem: str) -> None:
    """Print the ranked table and what that would cost."""
    say("Ranked by mIoU on whole validation photos, as the endpoints answered")
    sys.stdout.write(format_ranking(folder) + "\n")
    if models := read_comparison(folder).models:
        costs = format_costs({model.title: measure(model) for model in models})
        (folder / COSTS_FILE).write_text(costs + "\n", encoding="utf-8")
        say(f"What that would cost\n{costs}")
    say(f"no report: {problem}" if problem else f"The report: {folder / 'report.html'}")


def compare(arguments: argparse.Namespace) -> int:
    """All steps; the exit code. UserError when nothing was run."""
    for option in ("algorithms", "seeds"):
        parse_values(option, getattr(arguments, option))
    sdk, output = find_sdk(), arguments.output.resolve()
    say("The data")
    data = arguments.data.resolve() if arguments.data else draw_data(output / "data")
    comparison = build_plan(arguments, data, output / "comparison")
    check_folder(comparison)
    check = check_data(comparison)
    truth = read_truth(data, check.class_names, comparison.hyperparameters.ignore_label)
    hyperparameters = build_hyperparameters(arguments, data, "")
    machine = {"instance_type": arguments.instance_type, "endpoint_type": arguments.instance_type}
    job = Job(arguments.image, hyperparameters, find_channels(data), output.as_uri(), **machine)
    with sdk.open_session(arguments.image, arguments.port) as session:
        comparison.folder.mkdir(parents=True, exist_ok=True)
        with hold_folder(comparison.folder, "writes a comparison to"):
            endpoint = f"SageMaker local mode, {sdk.TITLE}; latency and images/s are those of its answers over HTTP"
            write_comparison(comparison, check, {**describe_hardware(), "endpoint": endpoint})
            records = run_all(Comparer(sdk, session, comparison, truth, job))
            problem = write_report(arguments.image, comparison)
            finish(comparison.folder, problem)
            return 1 if problem or any(record.status == FAILED for record in records) else 0


def main() -> None:
    """Run it; 1 when a run failed, 2 for what the caller has to change, 130 for Ctrl-C."""
    # So that an end from outside cleans up too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(compare(parse_arguments()))
    except UserError as error:
        sys.stderr.write(f"compare.py: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped and cleaned up; the same command goes on with what is left\n")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
