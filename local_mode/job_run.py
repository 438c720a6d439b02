"""The runs of a comparison in local mode: each a training job, then an endpoint that is asked about every photo."""

from __future__ import annotations

import re
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from endpoint_score import Truth, read_size, score_endpoint
from example import Training, follow_training, say
from job import Job
from machine import remove_containers

from gluonseg.compare.plan import Comparison, Run
from gluonseg.predict.score import Score
from gluonseg.report.record import (
    FAILED,
    FINISHED,
    MASKS_FOLDER,
    RunRecord,
    describe_training,
    read_record,
    write_record,
)

LOG_FILE = "log.txt"
KILLED = 137
_ERROR_LINE = re.compile(r"\b(?:ClientError|AlgorithmError): ([^\n\x1b]+)")


def find_failure(log: str, error: Exception) -> str:
    """Why a job or an endpoint failed, in one line: what the container said last, or else the SDK."""
    if found := _ERROR_LINE.findall(log):
        return str(found[-1]).strip()
    text = " ".join(str(error).split()) or type(error).__name__
    if code := re.search(r"exited with code: (\d+)", text):
        hint = ": it was killed, perhaps for want of memory" if int(code[1]) == KILLED else ""
        return f"the container ended with exit code {code[1]}{hint}"
    return text


def unpack(archive: Path, folder: Path) -> None:
    """Unpack what a job has left."""
    with tarfile.open(archive) as tar:
        # Pythons of before 2023 have no filter.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
        tar.extractall(folder)


@dataclass(frozen=True)
class Comparer:
    """What the runs of a comparison share; ``job`` is that of all, without algorithm and output."""

    sdk: Any
    session: Any
    comparison: Comparison
    truth: Truth
    job: Job

    @property
    def scratch(self) -> Path:
        """The folder of the SDK's files."""
        return Path(self.session.config["local"]["container_root"])

    def make_run(self, run: Run) -> RunRecord:
        """Train, deploy and score; what went wrong is in the record, and sinks no other run."""
        folder, training = self.comparison.find_run_folder(run), Training()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            end: dict[str, Any] = {"status": FINISHED, "score": self._train_and_score(run, folder, training)}
        except Exception as error:
            end = {"status": FAILED, "error": find_failure(training.log, error)}
        remove_containers(self.scratch)
        (folder / LOG_FILE).write_text(training.log, encoding="utf-8")
        trained = describe_training(folder / "model", self.comparison.settings)
        record = run.build_record(train_seconds=training.seconds, **trained, **end)
        write_record(folder, record)
        return record

    def _train_and_score(self, run: Run, folder: Path, training: Training) -> Score:
        varied = {"algorithm": run.algorithm, "backbone": run.backbone, "seed": run.seed}
        artifacts = self.scratch / run.name
        job = replace(self.job, hyperparameters={**self.job.hyperparameters, **varied}, output=artifacts.as_uri())
        say(f"Train {run.title}")
        with follow_training(training):
            model = self.sdk.train(self.session, job)
        unpack(artifacts / "model.tar.gz", folder / "model")
        unpack(artifacts / "output.tar.gz", folder / "output")
        say(f"Deploy {run.title}, and send it {len(self.truth.pairs)} photos")
        with self.sdk.deployed_endpoint(self.session, job, model) as ask:
            return score_endpoint(ask, self.truth, folder / MASKS_FOLDER, read_size(folder / "output"))


def run_all(comparer: Comparer) -> list[RunRecord]:
    """Every run that is not finished yet."""
    records = []
    for run in comparer.comparison.runs:
        record = read_record(comparer.comparison.find_run_folder(run))
        if record is None or record.status != FINISHED:
            record = comparer.make_run(run)
        if record.status == FAILED:
            say(f"{run.title} failed: {record.error}")
        records.append(record)
    return records
