"""The benchmarks can be started, and their arithmetic is right; the figures themselves are for ``make bench``."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gluonseg.data.prepare.synthetic import draw_oxford_layout
from program import MAKE_VARIABLES, build_environment, run_program
from repository import ROOT


@pytest.fixture(autouse=True)
def can_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the folder of photos that the one who runs the tests measures on."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delenv("GLUONSEG_BENCH_DATA", raising=False)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder in the layout of the Oxford-IIIT Pet data set."""
    return draw_oxford_layout(tmp_path / "pets", count=12, size=32, seed=1)


@pytest.fixture
def measure_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the program on stages whose ``measure`` is replaced, on a machine with the load given."""
    import benchmarks.__main__ as program

    def run(load: float = 0.1, **measures: Callable[[Path], object]) -> int:
        monkeypatch.setattr(program, "_wait_until_idle", lambda: load)
        monkeypatch.setattr(program, "SCRATCH", tmp_path)
        for stage, measure in measures.items():
            monkeypatch.setattr(importlib.import_module(f"benchmarks.stage_{stage}"), "measure", measure)
        return program.main([*measures, "--json", str(tmp_path / "results.json")])

    return run


def test_unknown_stages_and_other_data_stop_before_anything_is_measured(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measure_stages: Callable[..., int]
) -> None:
    import benchmarks.__main__ as program

    (pets / "annotations" / "trimaps").rename(pets / "elsewhere")
    monkeypatch.setenv("GLUONSEG_BENCH_DATA", str(pets))
    with pytest.raises(SystemExit, match="2"):
        program.main(["engines"])
    with pytest.raises(SystemExit, match="2"):
        measure_stages(engine=lambda _scratch: pytest.fail("it measures"))
    printed = capsys.readouterr().err
    assert "unknown stage engines; there are check, input_pipeline, " in printed
    assert f"{pets} is not the unpacked Oxford-IIIT Pet data set: expected images/NAME.jpg, " in printed


def test_every_stage_can_be_imported() -> None:
    from benchmarks.__main__ import STAGES

    assert all(callable(importlib.import_module(f"benchmarks.stage_{stage}").measure) for stage in STAGES)
    assert {f"stage_{stage}.py" for stage in STAGES} == {path.name for path in (ROOT / "benchmarks").glob("stage_*")}


def test_make_bench_names_the_stages_and_the_photos() -> None:
    command = ["make", "bench", "STAGES=engine server", "DATA=/pets", "--always-make", "--just-print"]
    run = run_program(command, build_environment(*MAKE_VARIABLES), cwd=ROOT).stdout.splitlines()[-1]
    assert run.startswith('GLUONSEG_BENCH_DATA="/pets" ')
    assert run.endswith("-m benchmarks engine server")


def test_ratio_is_taken_round_by_round() -> None:
    from benchmarks.row import AT_MOST, ResultRow, build_ratio_row, format_table

    # The machine was half as fast in the second round: the ratio is 2 all the same.
    row = build_ratio_row("a stage", "a peer", "photos/s", [4.0, 2.0, 4.0], [2.0, 1.0, 2.0], 2.5)
    assert (row.ours, row.theirs, row.value, row.low, row.high, row.is_met) == (4, 2, 2, 2, 2, False)
    lower = build_ratio_row("less is better", "a peer", "MB", [1.0, 1.0], [2.0, 4.0], 0.5, AT_MOST)
    assert lower.value == pytest.approx(0.375)
    assert lower.is_met
    table = format_table([row, ResultRow("a share", "-", "%", 99.996, None, 99.996)])
    assert "| a stage | a peer | 4 | 2 | photos/s | 2 (2.00 to 2.00) | >= 2.5 | NO |" in table
    assert "| 99.996 | - | % | 99.996 | - | - |" in table


def test_first_round_is_dropped_and_programs_take_turns() -> None:
    from benchmarks.variant import run_rounds

    order: list[str] = []

    def run(name: str) -> Mapping[str, float]:
        order.append(name)
        return {"place": len(order)}

    series = run_rounds({name: lambda name=name: run(name) for name in ("ours", "theirs")}, rounds=2)  # type: ignore[misc]
    assert order == ["ours", "theirs"] * 3
    assert series == {"ours": [{"place": 3}, {"place": 5}], "theirs": [{"place": 4}, {"place": 6}]}


def test_speed_and_communication_of_a_job_are_read_from_its_log() -> None:
    from benchmarks.stage_hosts import parse_log

    epoch = (
        "[11/29/2026 13:03:55 INFO 1] Communication took %.1f %% of the 10.0 s of training in epoch %d\n"
        "[11/29/2026 13:03:55 INFO 1] #throughput_metric. host: a, epoch: %d, train throughput: %s samples/sec.\n"
        "[11/29/2026 13:03:56 INFO 1] #throughput_metric. host: a, epoch: %d, validation throughput: 8.5 samples/sec.\n"
    )
    log = "".join(epoch % (number + 5, number, number, number + 2.25, number) for number in range(3))
    assert parse_log(log) == ([3.25, 4.25], [6, 7])


def test_every_source_has_its_own_channels_and_photo(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a run on drawn photos the next one measures the photos that it is given."""
    from benchmarks import inputs

    monkeypatch.setattr(inputs, "_COUNT", 12)
    monkeypatch.setattr(inputs, "_SIDE", 32)

    def prepare() -> tuple[Path, Path]:
        return inputs.prepare_channels(tmp_path), inputs.prepare_photo(tmp_path, (48, 32))

    drawn, data = prepare(), inputs.describe_data(tmp_path)
    monkeypatch.setenv(inputs.DATA_VARIABLE, str(pets))
    assert not set(prepare()) & set(drawn)
    named = inputs.describe_data(tmp_path)
    assert str(named["source"]).startswith("pets-")
    assert named["sha256"] != data["sha256"]
    monkeypatch.delenv(inputs.DATA_VARIABLE)
    assert (prepare(), inputs.describe_data(tmp_path)) == (drawn, data)


def test_service_is_ready_answers_and_tells_the_memory_of_all_its_processes(
    trained_model: Path, drawn_channels: Mapping[str, Path], tmp_path: Path
) -> None:
    from benchmarks.service import Service, ServiceError, ask

    photo = next(drawn_channels["validation"].iterdir())
    with Service(trained_model, tmp_path / "log") as server:
        seconds, most = server.watch_pss_mb(lambda: ask(server.port, photo, clients=2, requests=2))
        assert len(seconds) == 4
        # The weights of resnet-18, which another process than the first one holds, are more than 45 MB.
        assert most > 80
    with pytest.raises(ServiceError, match="has ended"):
        server.read_pss_mb()


def test_variant_measures_a_round(drawn_channels: Mapping[str, Path]) -> None:
    """A real one, in its own process: what it counts is what there is."""
    from benchmarks.variant import Variant

    folders = [str(drawn_channels[name]) for name in ("train", "train_annotation")]
    count = len(list(drawn_channels["train"].glob("*.*")))
    with Variant("benchmarks.stage_input_pipeline", *folders, str(count), "2", "0") as variant:
        found = variant.run()
    batch = min(8, count)
    assert found["count"] == pytest.approx(2 * count, abs=batch)
    assert found["batch_bytes"] == batch * 480 * 480 * 4
    assert found["rate"] == pytest.approx(found["count"] / found["seconds"])
    assert found["cpu_rate"] > 0


def test_a_failing_stage_and_a_busy_machine_are_told_and_the_rest_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], measure_stages: Callable[..., int]
) -> None:
    from benchmarks.row import AT_MOST, ResultRow

    def fail(_scratch: Path) -> list[ResultRow]:
        raise FileNotFoundError("no weights")

    row = ResultRow("a stage", "-", "ms", 3.0, None, 3.0, 4.0, AT_MOST)
    assert measure_stages(1.234, engine=fail, server=lambda _scratch: [row]) == 1
    printed = capsys.readouterr()
    assert "| a stage | - | 3 |" in printed.out
    assert "- server: measured at load 1.23: the machine was busy" in printed.out
    assert printed.err.splitlines()[-1] == "not measured, see the messages above: engine"
    content = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert content["stages"]["engine"] == {"error": "no weights"}
    assert content["stages"]["server"]["load"] == 1.234
    assert content["rows"][0]["is_met"] is True
    assert content["machine"]["cores"] >= 1
    assert content["data"]["source"] == "drawn"
    assert measure_stages(server=lambda _scratch: [row]) == 0
