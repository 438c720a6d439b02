"""A session of SDK v2 for local mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from machine import CONFIG, check_machine, open_scratch, stay_local
from sagemaker.config import load_sagemaker_config
from sagemaker.local import LocalSession

ROLE = "arn:aws:iam::000000000000:role/local"
"""Local mode asks for a role and never uses it, so that it need not exist."""


@contextmanager
def open_session(image: str, port: int = 8080) -> Iterator[LocalSession]:
    """A session for local mode; at the end its containers and its scratch folder are gone."""
    # SDK v2 knows the plugin of this major version only.
    check_machine(image, port, compose="v2")
    stay_local()
    with open_scratch(image) as scratch:
        # It insists on a region and never uses it.
        region = boto3.Session().region_name or "us-east-1"
        config = load_sagemaker_config([str(CONFIG)])
        session = LocalSession(boto3.Session(region_name=region), sagemaker_config=config)
        session.config = {"local": {"container_root": str(scratch), "serving_port": port}}
        yield session
