"""Watching a job or an endpoint until it is done, with a line for every step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from botocore import xform_name

from gluonseg.errors import UserError

Answer = dict[str, Any]

RUNNING = ("InProgress", "Stopping", "Creating", "Updating")
GOOD = ("Completed", "Stopped", "InService")


def say(text: str) -> None:
    """One line for the person who started the script, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line beside the output proper, for what should be known."""
    sys.stderr.write(f"byoc: note: {text}\n")


def _iter_steps(answer: Answer, status: str) -> Iterator[str]:
    """What happened so far, oldest first."""
    for step in answer.get("SecondaryStatusTransitions", ()):
        message = step.get("StatusMessage", "")
        yield f"{step['StartTime']:%H:%M:%S} {step['Status']}{': ' if message else ''}{message}"
    counters = answer.get("TrainingJobStatusCounters", {})
    counts = ", ".join(f"{count} {name}" for name, count in counters.items() if count)
    yield f"{status}{': ' if counts else ''}{counts}"


def watch(client: Any, kind: str, name: str, interval_s: float) -> Answer:
    """Ask for the TrainingJob, TransformJob, HyperParameterTuningJob or Endpoint ``name`` until it is done.

    Returns SageMaker's last answer.

    Raises:
        UserError: it failed; the text has SageMaker's reason.
    """
    describe = getattr(client, f"describe_{xform_name(kind)}")
    shown: list[str] = []
    while True:
        answer: Answer = describe(**{f"{kind}Name": name})
        status: str = answer[f"{kind}Status"]
        for step in _iter_steps(answer, status):
            if step not in shown:
                say(step)
                shown.append(step)
        if status not in RUNNING:
            break
        time.sleep(interval_s)
    if status not in GOOD:
        raise UserError(f"{name}: {status}: {answer.get('FailureReason', 'no reason was given')}")
    return answer


def report_training(answer: Answer) -> None:
    """Print how long it took, the last value of every metric, and where the model is."""
    took, billed = answer.get("TrainingTimeInSeconds"), answer.get("BillableTimeInSeconds")
    if took is not None:
        say(f"training took {took} s, {billed} s are billed")
    for metric in sorted(answer.get("FinalMetricDataList", ()), key=lambda one: str(one["MetricName"])):
        say(f"{metric['MetricName']:<34} {metric['Value']:.6g}")
    say(f"model: {answer.get('ModelArtifacts', {}).get('S3ModelArtifacts', 'none was written')}")
