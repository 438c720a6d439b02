#!/usr/bin/env python3
"""Bring your own container: push the image to Amazon ECR, train, tune, deploy, transform and clean up on SageMaker.

docs/byoc.md goes through it. ``byoc.py COMMAND --help`` lists a command's options; ``--dry-run`` prints the request
bodies as JSON and calls nothing. Credentials and region come from where boto3 always looks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import action
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError
from cleanup import JOBS

from gluonseg.errors import HyperparameterError, UserError
from gluonseg.hyperparameters import describe_unknown, get_specs
from gluonseg.parameter import format_value
from gluonseg.sagemaker.hosting import MASK_TYPE

Options = argparse.Namespace
Handler = Callable[[Options], None]

_GOES_ON = {
    "train": "training job {name}, if it has started, goes on and costs money; to end it: {stop}",
    "tune": "tuning job {name}, if it has started, goes on and costs money; to end it and its training jobs: {stop}",
    "transform": "transform job {name}, if it has started, goes on and costs money; to end it: {stop}",
    "deploy": "endpoint {name}, if it was made, stays and costs money; to remove it once it is no longer Creating: "
    "{delete}",
}
"""What a command has started, for those who no longer watch it."""


def _parse_pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _add_command(commands: Any, name: str, handler: Handler) -> argparse.ArgumentParser:
    text = (handler.__doc__ or "").strip()
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(handler=handler, command=name)
    parser.add_argument("--region", help="AWS region (default: the one boto3 is configured for)")
    parser.add_argument("--profile", help="profile in the AWS configuration file")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every command that starts something on SageMaker."""
    stamp = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    parser.add_argument("--name", default=f"gluonseg-{stamp}", help="default gluonseg-DATE-TIME")
    parser.add_argument("--image", required=True, help="the address that push printed")
    parser.add_argument("--role", required=True, help="ARN of the role that SageMaker takes on")
    parser.add_argument("--network_isolation", action="store_true", help="the container reaches no network at all")
    parser.add_argument("--subnet", action="append", default=[], metavar="ID", help="of a VPC; can be repeated")
    parser.add_argument("--security_group", action="append", default=[], metavar="ID", help="can be repeated")
    parser.add_argument("--env", type=_parse_pair, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--tag", type=_parse_pair, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--volume_kms_key", metavar="KEY", help="encrypts the machines' disks")
    parser.add_argument("--interval", type=float, default=15, metavar="SECONDS", help="between looks (default 15)")
    parser.add_argument("--dry-run", action="store_true", help="print the request bodies and call nothing")


def _add_training(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--no_wait", action="store_true", help="return as soon as it has started")
    parser.add_argument("--data", required=True, metavar="S3", help="folder with train, train_annotation, ...")
    parser.add_argument(
        "--channel", type=_parse_pair, action="append", default=[], metavar="NAME=S3", help="another, or elsewhere"
    )
    parser.add_argument("--output", required=True, metavar="S3", help="folder for model.tar.gz")
    parser.add_argument("--instance_type", required=True, help="such as ml.g4dn.xlarge, or ml.m5.xlarge without GPU")
    parser.add_argument("--volume_gb", type=int, default=30, help="disk (default 30)")
    parser.add_argument("--input_mode", default="File", choices=("File", "FastFile"))
    parser.add_argument("--max_runtime", type=int, default=24 * 3600, metavar="SECONDS", help="default a day")
    parser.add_argument("--spot", action="store_true", help="take spare machines, which can be taken back")
    parser.add_argument("--max_wait", type=int, metavar="SECONDS", help="spot: for waiting and running together")
    parser.add_argument("--checkpoints", metavar="S3", help="folder that /opt/ml/checkpoints is copied to and from")
    parser.add_argument("--output_kms_key", metavar="KEY", help="encrypts model.tar.gz")
    group = parser.add_argument_group("hyperparameters", "docs/hyperparameters.md explains them")
    for name, one in get_specs().items():
        shown = "required" if one.required else f"default {format_value(one.default) or 'none'}"
        text = argparse.SUPPRESS if name.startswith("_") else shown.replace("%", "%%")
        group.add_argument(f"--{name}", help=text, metavar="VALUE")


def _add_model(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--model_data", required=True, metavar="S3", help="model.tar.gz of a training job")
    parser.add_argument("--instance_count", type=int, default=1)


def _add_hosting(commands: Any) -> None:
    deploy = _add_command(commands, "deploy", action.run_deploy)
    _add_model(deploy)
    deploy.add_argument("--no_wait", action="store_true", help="return as soon as it has started")
    deploy.add_argument("--instance_type", help="such as ml.m5.xlarge")
    deploy.add_argument("--serverless", action="store_true", help="no machine of its own")
    deploy.add_argument("--memory_mb", type=int, default=4096, help="serverless (default 4096)")
    deploy.add_argument("--max_concurrency", type=int, default=2, help="serverless (default 2)")
    deploy.add_argument("--async_output", metavar="S3", help="asynchronous inference, answers to this folder")
    transform = _add_command(commands, "transform", action.run_transform)
    _add_model(transform)
    transform.add_argument("--photos", required=True, metavar="S3", help="folder of photos")
    transform.add_argument("--output", required=True, metavar="S3", help="folder for <photo>.out")
    transform.add_argument("--instance_type", required=True, help="such as ml.m5.xlarge")
    transform.add_argument("--accept", default=MASK_TYPE, help=f"what to make (default {MASK_TYPE})")
    invoke = _add_command(commands, "invoke", action.run_invoke)
    invoke.add_argument("endpoint")
    invoke.add_argument("photo", type=Path)
    invoke.add_argument("--output", type=Path, default=Path("mask.png"), help="default mask.png")
    invoke.add_argument("--accept", default=MASK_TYPE, help=f"what to send back (default {MASK_TYPE})")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="byoc.py", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    push = _add_command(commands, "push", action.run_push)
    push.add_argument("--local_image", default="gluonseg", help="image on this machine (default gluonseg)")
    push.add_argument("--repository", default="gluonseg", help="in ECR, made if missing (default gluonseg)")
    push.add_argument("--image_tag", default="latest", help="default latest")
    upload = _add_command(commands, "upload", action.run_upload)
    upload.add_argument("folder", type=Path, help="folder with train, train_annotation, validation, ...")
    upload.add_argument("target", metavar="S3", help="such as s3://BUCKET/data/")
    _add_training(_add_command(commands, "train", action.run_train))
    tune = _add_command(commands, "tune", action.run_tune)
    _add_training(tune)
    tune.add_argument("--tune", required=True, nargs="+", metavar="NAME", help="hyperparameters to search")
    tune.add_argument("--max_jobs", type=int, required=True, help="training jobs in all")
    tune.add_argument("--max_parallel_jobs", type=int, default=1, help="at the same time (default 1)")
    _add_hosting(commands)
    _add_command(commands, "delete", action.run_delete).add_argument("endpoint")
    stop = _add_command(commands, "stop", action.run_stop)
    stop.add_argument("job")
    stop.add_argument("--kind", choices=tuple(JOBS), help="which, if jobs of several kinds have this name")
    return parser


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    names = [text[2:].partition("=")[0] for text in unknown if text.startswith("--")]
    if names and options.handler in (action.run_train, action.run_tune):
        raise HyperparameterError("; ".join(describe_unknown(names)))
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _describe_rest(options: Options) -> str:
    """What goes on when the command ends before its time, and how to end that; empty if nothing does."""
    text = _GOES_ON.get(options.command)
    if text is None or options.dry_run:
        return ""
    commands = {verb: action.build_command(options, verb) for verb in ("stop", "delete")}
    return f"byoc: {text.format(name=options.name, **commands)}\n"


def _run(options: Options) -> int:
    handler: Handler = options.handler
    try:
        handler(options)
    except (NoConnectionError, HTTPClientError) as error:
        sys.stderr.write(f"byoc: {error}\n{_describe_rest(options)}")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"byoc: interrupted\n{_describe_rest(options)}")
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0, or 2 for what the user can fix, 1 for what AWS answered, 130 after Ctrl-C."""
    try:
        return _run(_parse(arguments))
    except UserError as error:
        sys.stderr.write(f"byoc: {error}\n")
        return error.exit_code
    except (BotoCoreError, ClientError, OSError) as error:
        sys.stderr.write(f"byoc: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
