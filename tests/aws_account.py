"""AWS accounts that moto plays: one in this process, and those around programs of local_mode/ that use an SDK."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from moto import mock_aws

from program import build_environment, run_program
from repository import ROOT

ACCOUNT = "123456789012"  # moto's
REGION = "us-east-1"
CREDENTIALS = {
    **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing"),
    **dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), "/nonexistent"),
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": REGION,
}


@contextmanager
def made_up_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The programs without any real account: made-up credentials, no configuration files, no metadata service."""
    monkeypatch.syspath_prepend(str(ROOT / "local_mode"))
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield


class AwsCall(NamedTuple):
    """A call of AWS: ``sagemaker``, ``CreateModel``, and what was sent."""

    service: str
    operation: str
    sent: dict[str, Any]


class CommandRun(NamedTuple):
    """What a command has printed and called."""

    output: str
    calls: Sequence[AwsCall]

    def find(self, operation: str) -> list[dict[str, Any]]:
        """What was sent at each call of this operation."""
        return [call.sent for call in self.calls if call.operation == operation]


def run_on_aws(python: Path, folder: Path, commands: Mapping[str, str]) -> Mapping[str, CommandRun]:
    """Run the commands in ``folder``, in one process under the Python of an SDK, each in an account of its own."""
    runner, packages, calls = ROOT / "tests" / "aws_runner.py", sysconfig.get_path("purelib"), folder / "calls"
    environment = build_environment("AWS_", "SAGEMAKER_", HOME=str(folder), OMP_NUM_THREADS="1", **CREDENTIALS)
    done = run_program([python, runner, packages, calls, *commands.values()], environment, cwd=folder)
    assert done.returncode == 0, done.stdout
    lines = [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
    return {
        name: CommandRun(output, [AwsCall(*call) for of, *call in lines if of == number])
        for number, (name, output) in enumerate(zip(commands, done.stdout.split("\f")[:-1], strict=True))
    }
