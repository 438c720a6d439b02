"""The benchmarks can be started, and their arithmetic is right; the figures themselves are for ``make bench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from program import MAKE_VARIABLES, build_environment, run_program
from repository import ROOT


def run_benchmarks(*arguments: str) -> tuple[int, str]:
    done = run_program([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT)
    return done.returncode, done.stdout


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder of photos the one who runs the tests measures on."""
    monkeypatch.delenv("GLUONSEG_BENCH_DATA", raising=False)


@pytest.fixture
def pets(tmp_path: Path) -> Callable[[str], Path]:
    """Folders in the layout of the Oxford-IIIT Pet data set."""
    from gluonseg.data.synthetic import draw_oxford_layout

    return lambda name: draw_oxford_layout(tmp_path / name, count=12, size=32, seed=1)


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


def test_table_tells_99_996_from_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.row import Row, format_table

    assert "| 99.996 | - | % | 99.996 | " in format_table([Row("a stage", "-", "%", 99.996, None, 99.996)])


def test_every_source_has_its_own_channels_and_photo(
    tmp_path: Path, pets: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a run on drawn photos the next one measures the photos that it is given."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import photo
    from benchmarks.client import prepare_photo

    monkeypatch.setattr(photo, "_COUNT", 12)
    monkeypatch.setattr(photo, "_SIDE", 32)
    scratch = tmp_path / "scratch"
    assert photo.describe_data(scratch) == {"source": "drawn"}
    drawn = photo.prepare_channels(scratch), prepare_photo(scratch, (48, 32))
    data = photo.describe_data(scratch)
    for name in ("pets", "other pets"):
        monkeypatch.setenv(photo.DATA_VARIABLE, str(pets(name)))
        given = photo.prepare_channels(scratch), prepare_photo(scratch, (48, 32))
        assert not set(given) & set(drawn)
        assert prepare_photo(scratch, (48, 32), is_drawn=True) == drawn[1]
        named = photo.describe_data(scratch)
        assert str(named["source"]).startswith("pets-")
        assert named["channels"] != data["channels"]
        assert named["photos"] != data["photos"]
    monkeypatch.delenv(photo.DATA_VARIABLE)
    assert (photo.prepare_channels(scratch), photo.describe_data(scratch)) == (drawn[0], data)


@pytest.mark.parametrize("missing", ["annotations/list.txt", "annotations/trimaps", "images"])
def test_data_that_is_not_the_data_set_stops_before_anything_is_measured(
    missing: str,
    pets: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.__main__ as program

    folder = pets("pets")
    (folder / missing).rename(folder / "elsewhere")
    monkeypatch.setenv("GLUONSEG_BENCH_DATA", str(folder))
    monkeypatch.setattr(program, "_measure", lambda _stage: pytest.fail("it measures"))
    with pytest.raises(SystemExit) as stopped:
        program.main(["engine"])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert f"{folder} is not the unpacked Oxford-IIIT Pet data set: expected images/NAME.jpg, " in printed


def test_memory_that_cannot_be_told_is_not_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import service

    for pid, children in ((7, "8 9"), (8, "")):
        thread = tmp_path / str(pid) / "task" / str(pid)
        thread.mkdir(parents=True)
        (thread / "children").write_text(children)
        (tmp_path / str(pid) / "smaps_rollup").write_text("Rss: 9 kB\nPss: 2 kB\nPss_Anon: 1 kB\n")
    monkeypatch.setattr(service, "_PROC", tmp_path)
    # 9 has just ended.
    assert sum(map(service._read_pss, service._iter_tree(7))) == 2 * 2048
    (tmp_path / "8" / "smaps_rollup").unlink()
    with pytest.raises(service.ServiceError, match="cannot be told"):
        service._read_pss(8)
    (tmp_path / "7" / "task" / "7" / "children").unlink()
    with pytest.raises(service.ServiceError, match="cannot be told"):
        list(service._iter_tree(7))


def test_service_tells_its_memory_and_what_it_said_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, whose child process holds the memory, and which says 500 before it says 200."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import service
    from benchmarks.stage_cold_start import _check_early

    program = tmp_path / "server.py"
    program.write_text(
        "import http.server, socketserver, subprocess, sys\n"
        "child = 'import sys; held = bytearray(b\"1\" * 50_000_000); print(flush=True); sys.stdin.read()'\n"
        "pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}\n"
        "holder = subprocess.Popen([sys.executable, '-c', child], **pipes)\n"
        "holder.stdout.readline()\n"
        "codes = iter([503, 500])\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(next(codes, 200))\n"
        "        self.end_headers()\n"
        "socketserver.TCPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
    )
    port = service.find_free_port()
    with service.Service([sys.executable, str(program), str(port)], port, log=tmp_path / "log") as server:
        answer, most = server.watch_pss(lambda: "an answer")
        assert answer == "an answer"
        assert 50e6 < most < 200e6
        assert [status for status in server.early if status != service.NO_CONNECTION] == [503, 500]
        with pytest.raises(service.ServiceError, match="/ping said 500, and not 503"):
            _check_early(server)
    with pytest.raises(service.ServiceError, match="has ended"):
        server.read_pss()


def test_servers_are_started_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.stage_model_server as stage

    order: list[str] = []

    def start_once(_start: object, path: str, _body: bytes) -> Mapping[str, float]:
        order.append(path)
        return {"ready": len(order)}

    monkeypatch.setattr(stage, "_start_once", start_once)
    sides: list[stage.Side] = [(lambda: pytest.fail("it starts one"), path) for path in ("ours", "theirs")]
    ours, theirs = stage._start_in_turn(sides, b"")
    assert order == ["ours", "theirs"] * 6
    assert (ours["ready"], theirs["ready"]) == ([3, 5, 7, 9, 11], [4, 6, 8, 10, 12])


def test_int8_trains_again_what_was_not_trained_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.stage_int8 as stage

    model = tmp_path / "job" / "model"
    model.mkdir(parents=True)
    (model / "model_card.json").touch()
    with pytest.raises(FileNotFoundError, match=r"class_names\.json, so no model can be trained here"):
        stage._train(tmp_path / "channels", tmp_path / "job")
    (model / "model.onnx").touch()
    assert stage._train(tmp_path / "channels", tmp_path / "job") == model


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
    monkeypatch.setattr(program, "SCRATCH", tmp_path)
    monkeypatch.setattr(stage, "measure", lambda _scratch: [Row("a stage", "-", "ms", 3.0, None, 3.0, 2.0)])
    target = tmp_path / "results.json"
    assert program.main(["engine", "--json", str(target)]) == 0
    content = json.loads(target.read_text("utf-8"))
    assert content["rows"][0]["is_met"] is True
    assert content["stages"]["engine"]["load"] == 0.1
    assert content["machine"]["cores"] >= 1
    assert content["data"] == {"source": "drawn"}


def test_stage_measured_on_a_busy_machine_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.__main__ as program
    import benchmarks.stage_cold_start as other
    import benchmarks.stage_engine as stage

    loads = iter([1.234, 0.5])
    monkeypatch.setattr(program, "_wait_until_idle", lambda: next(loads))
    monkeypatch.setattr(program, "SCRATCH", tmp_path)
    for one in (stage, other):
        monkeypatch.setattr(one, "measure", lambda _scratch: [])
    assert program.main(["engine", "cold_start", "--json", str(tmp_path / "results.json")]) == 0
    marks = [line for line in capsys.readouterr().out.splitlines() if "busy" in line]
    assert marks == ["- engine: measured at load 1.23: the machine was busy"]
