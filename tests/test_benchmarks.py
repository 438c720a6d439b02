"""The benchmarks can be started, and their arithmetic is right; the figures themselves are for ``make bench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from program import MAKE_VARIABLES, build_environment, run_program
from repository import ROOT


def run_benchmarks(*arguments: str) -> tuple[int, str]:
    done = run_program([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT)
    return done.returncode, done.stdout


def test_unknown_stage_is_named() -> None:
    code, printed = run_benchmarks("engines")
    assert code == 2
    assert "unknown stage engines; there are input_pipeline, " in printed


def test_every_stage_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import importlib

    from benchmarks.__main__ import STAGES

    for stage in STAGES:
        assert callable(importlib.import_module(f"benchmarks.stage_{stage}").measure)
    assert {f"stage_{stage}.py" for stage in STAGES} == {path.name for path in (ROOT / "benchmarks").glob("stage_*")}


def test_make_bench_installs_the_peers_first() -> None:
    command = ["make", "bench", "STAGES=engine server", "DATA=/pets", "--always-make", "--just-print"]
    printed = run_program(command, build_environment(*MAKE_VARIABLES), cwd=ROOT).stdout
    install, run = printed.splitlines()[-2:]
    assert install.endswith("--require-hashes -r benchmarks/requirements.txt")
    assert run.startswith('GLUONSEG_BENCH_DATA="/pets" ')
    assert run.endswith("-m benchmarks engine server")


def test_ratio_is_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.row import AT_MOST, build_ratio_row, format_table

    # The machine was half as fast in the second round: the ratio is 2 all the same.
    row = build_ratio_row("a stage", "a peer", "photos/s", [4.0, 2.0, 4.0], [2.0, 1.0, 2.0], 2.5)
    assert (row.ours, row.theirs, row.value, row.low, row.high, row.is_met) == (4, 2, 2, 2, 2, False)
    lower = build_ratio_row("less is better", "a peer", "MB", [1.0, 1.0], [2.0, 4.0], 0.5, AT_MOST)
    assert lower.value == pytest.approx(0.375)
    assert lower.is_met
    assert "| a stage | a peer | 4 | 2 | photos/s | 2 (2.00 to 2.00) | >= 2.5 | NO |" in format_table([row, lower])


def test_variant_measures_a_round(drawn_channels: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, in its own process: what it counts is what there is."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.variant import Variant

    folders = [str(drawn_channels[name]) for name in ("train", "train_annotation")]
    count = len(list(drawn_channels["train"].glob("*.*")))
    arguments = [*folders, str(count), "1", "2", "0"]
    with Variant("ours", "benchmarks.variants.our_pipeline", arguments) as variant:
        found = variant.run()
    batch = min(8, count)
    assert found["photos"] == pytest.approx(2 * count, abs=batch)
    assert found["batch_bytes"] == batch * 480 * 480 * 4
    assert found["cpu_seconds"] > 0


def test_failing_variant_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.variant import Variant, VariantError

    with pytest.raises(VariantError, match=r"ours has ended with code 1"):
        Variant("ours", "benchmarks.variants.our_pipeline", ["/nowhere", "/nowhere", "1", "1", "1", "0"])


def test_other_stages_go_on_after_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.__main__ as program
    import benchmarks.stage_cold_start as later
    import benchmarks.stage_engine as stage
    from benchmarks.row import Row

    def fail(_scratch: Path) -> list[Row]:
        raise FileNotFoundError("no java")

    monkeypatch.setattr(program, "_wait_until_idle", lambda: 0.1)
    monkeypatch.setattr(stage, "measure", fail)
    monkeypatch.setattr(later, "measure", lambda _scratch: [Row("a stage", "-", "ms", 3.0, None, 3.0, 2.0)])
    target = tmp_path / "results.json"
    assert program.main(["engine", "cold_start", "--json", str(target)]) == 1
    printed = capsys.readouterr()
    assert "| a stage | - | 3 |" in printed.out
    assert printed.err.splitlines()[-1] == "not measured, see the messages above: engine"
    assert json.loads(target.read_text("utf-8"))["stages"]["engine"] == {"error": "no java"}


def test_results_are_kept_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.__main__ as program
    import benchmarks.stage_engine as stage
    from benchmarks.row import Row

    monkeypatch.setattr(program, "_wait_until_idle", lambda: 0.1)
    monkeypatch.setattr(stage, "measure", lambda _scratch: [Row("a stage", "-", "ms", 3.0, None, 3.0, 2.0)])
    target = tmp_path / "results.json"
    assert program.main(["engine", "--json", str(target)]) == 0
    content = json.loads(target.read_text("utf-8"))
    assert content["rows"][0]["is_met"] is True
    assert content["stages"]["engine"]["load"] == 0.1
    assert content["machine"]["cores"] >= 1
