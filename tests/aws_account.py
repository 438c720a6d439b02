"""An AWS account that moto plays, and local_mode/aws/byoc.py used in it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from moto import mock_aws

from repository import ROOT

SCRIPTS = ROOT / "local_mode" / "aws"
ACCOUNT = "123456789012"  # moto's
REGION = "us-east-1"

Capture = pytest.CaptureFixture[str]


@contextmanager
def made_up_account(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """The scripts without any real account: made-up credentials, no configuration files, no metadata service."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(folder / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield


def run_byoc(capture: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    """Run byoc.py in this process: its exit code, and what it wrote to stdout and stderr."""
    code: int = importlib.import_module("byoc").main([str(one) for one in arguments])
    printed = capture.readouterr()
    return code, printed.out, printed.err
