#!/usr/bin/env python3
"""End what costs money on AWS under a name: stop its jobs, remove its endpoint, endpoint configuration and model.

    .venv-sdk-v2/bin/python local_mode/stop.py NAME

It shows what AWS says of each.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import boto3
from botocore.exceptions import ClientError

JOBS = ("training_job", "hyper_parameter_tuning_job", "transform_job")


def describe_end(name: str) -> str:
    """The command that ends it."""
    return f"{sys.executable} {__file__} {name}"


def _call(client: Any, verb: str, kind: str, name: str) -> str:
    """Ask AWS to do it; why AWS did not, or an empty text."""
    try:
        getattr(client, f"{verb}_{kind}")(**{f"{kind.title().replace('_', '')}Name": name})
    except ClientError as error:
        return str(error.response["Error"]["Message"])
    return ""


def remove_endpoint(client: Any, name: str) -> dict[str, str]:
    """Remove the endpoint, the configuration and the model of that name; for each, why AWS did not, or an empty text.

    Ends the program if the endpoint stays, as one does that is still being made: it needs the other two.
    """
    problem = _call(client, "delete", "endpoint", name)
    if problem and not _call(client, "describe", "endpoint", name):
        sys.exit(f"endpoint {name} costs money and cannot be removed yet ({problem}); later: {describe_end(name)}")
    others = {kind: _call(client, "delete", kind, name) for kind in ("endpoint_config", "model")}
    return {"endpoint": problem, **others}


def announce(session: Any, kind: str, name: str) -> None:
    """Say, before it is started on AWS, how to end it after this program has been stopped."""
    if not session.local_mode:
        sys.stdout.write(f"{kind} {name}; it goes on without this program; to end it: {describe_end(name)}\n")


def main() -> None:
    """Stop or remove whatever has the name, and show what AWS says of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a job or an endpoint")
    name, client = parser.parse_args().name, boto3.client("sagemaker")
    problems = {kind: _call(client, "stop", kind, name) for kind in JOBS}
    problems |= remove_endpoint(client, name)
    for kind, problem in problems.items():
        sys.stdout.write(f"{kind.replace('_', ' ')} {name}: {problem or 'stopped or removed'}\n")


if __name__ == "__main__":
    main()
