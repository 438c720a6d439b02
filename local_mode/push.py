#!/usr/bin/env python3
"""Push the image to Amazon ECR, and print the address that jobs take.

    .venv-sdk-v2/bin/python local_mode/push.py
    .venv-sdk-v2/bin/python local_mode/push.py --image gluonseg:gpu --tag gpu

It needs Docker and boto3; the aws command need not be installed. The repository is made if there is none.
"""

from __future__ import annotations

import argparse
import base64
import re
import subprocess
import sys
from typing import Any

import boto3

PLATFORM = "linux/amd64"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
"""SageMaker's CreateModel refuses images whose manifest has one of the newer OCI types."""
_REPOSITORY = re.compile(r"(?=.{2,256}$)[a-z0-9]+([._/-][a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def _run_docker(*arguments: str, given: str | None = None, shown: bool = False) -> str:
    """Run docker and return what it prints; when ``shown``, docker prints to the terminal and the text is empty."""
    pipe = None if shown else subprocess.PIPE
    try:
        done = subprocess.run(["docker", *arguments], input=given, stdout=pipe, stderr=pipe, text=True, check=False)
    except FileNotFoundError:
        sys.exit("docker is not installed, or not on the PATH")
    if done.returncode:
        sys.exit(f"docker {arguments[0]} failed: {(done.stderr or 'see above').strip()}")
    return (done.stdout or "").strip()


def _provide_repository(client: Any, name: str) -> str:
    """Make the repository if there is none; its address."""
    try:
        found = client.describe_repositories(repositoryNames=[name])["repositories"][0]
    except client.exceptions.RepositoryNotFoundException:
        found = client.create_repository(repositoryName=name)["repository"]
    return str(found["repositoryUri"])


def push(image: str, repository: str, tag: str) -> str:
    """Push the local ``image``; its address in ECR. Ends the program when SageMaker would refuse the image."""
    if not _REPOSITORY.fullmatch(repository) or not _TAG.fullmatch(tag):
        sys.exit(f"{repository}:{tag} is no name in ECR: take small letters and digits, with . _ - / between them")
    platform = _run_docker("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image)
    if platform != PLATFORM:
        sys.exit(f"{image} is for {platform}, SageMaker runs {PLATFORM}: docker/build.sh --platform {PLATFORM}")
    client = boto3.client("ecr")
    uri = _provide_repository(client, repository)
    token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    _run_docker("login", "--username", user, "--password-stdin", uri.partition("/")[0], given=password)
    _run_docker("tag", image, f"{uri}:{tag}")
    _run_docker("push", f"{uri}:{tag}", shown=True)
    details = client.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])["imageDetails"][0]
    if (kind := details.get("imageManifestMediaType", MANIFEST)) != MANIFEST:
        again = "docker/build.sh --provenance=false --output type=docker, then push again"
        sys.exit(f"the image was pushed, but SageMaker refuses its manifest ({kind}): {again}")
    return f"{uri}:{tag}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="gluonseg", help="image on this machine (%(default)s)")
    parser.add_argument("--repository", default="gluonseg", help="in ECR (%(default)s)")
    parser.add_argument("--tag", default="latest", help="in ECR (%(default)s)")
    arguments = parser.parse_args()
    sys.stdout.write(f"image: {push(arguments.image, arguments.repository, arguments.tag)}\n")


if __name__ == "__main__":
    main()
