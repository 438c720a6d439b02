"""No program runs, loads or connects to what is in data: real ones, watched by Python's audit hooks, among canaries.

A canary is a file that leaves a mark when something opens it as what it pretends to be. Besides the marks, the hook
(tests/audit_hook.py) writes down every pickle that looks up a name, every program that is started, every connection,
every library from the data, and every piece of code that is compiled or run and comes from there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import audit_hook
from audit_hook import CASE, STARTED
from canary import Canaries, build_bodies, plant_around
from job_layout import CHANNELS, TRAIN, Job, draw_channels, lay_out_job
from local_server import SERVE, find_free_port, started_server
from picture import draw_noise, encode_picture
from program import build_environment, run_program
from repository import ROOT

Place = Callable[[Job, Canaries], object]
FONTS = ("subprocess.Popen", "fc-list")
"""matplotlib asks the system for its fonts, where it has not done so before."""
LISTENS = ("socket.getaddrinfo", "0.0.0.0")
SERVER_MODULES = ("multiprocessing.", "concurrent.futures.process", "gluonseg.", "pathlib")
"""The server's two processes send each other pickles with names of these modules, and a client's request as bytes."""


def _is_of_server(line: list[str]) -> bool:
    return line[:2] == list(LISTENS) or (line[0] == "pickle.find_class" and line[1].startswith(SERVER_MODULES))


class Cage(NamedTuple):
    """A folder of data that is watched, the canaries in it, and how to start a program among them."""

    data: Path
    canaries: Canaries
    log: Path
    variables: Mapping[str, str]
    around: Path

    def run(self, *command: str | Path, **variables: str) -> tuple[int, str]:
        """Run Python with this command line in the folder full of canaries; exit code and output."""
        environment = build_environment("PYTHON", **self.variables, OMP_NUM_THREADS="1", **variables)
        done = run_program([sys.executable, *command], environment, cwd=self.around)
        return done.returncode, done.stdout

    def check_silent(self, of_server: bool = False) -> None:
        """Fail when a canary has sung, or the hook has written down anything but that it was there."""
        events = audit_hook.read_events(self.log)
        assert STARTED in [event for event, *_ in events]
        others = [line for line in events if line[0] not in (STARTED, CASE) and line[:2] != list(FONTS)]
        assert [line for line in others if not (of_server and _is_of_server(line))] == []
        assert self.canaries.find_sung() == []


@pytest.fixture
def cage(tmp_path: Path) -> Cage:
    data, log = tmp_path / "data", tmp_path / "audit.log"
    data.mkdir()
    canaries = Canaries(tmp_path / "marks")
    variables = audit_hook.build_variables(audit_hook.write_startup(tmp_path / "startup"), log, [data])
    return Cage(data, canaries, log, variables, plant_around(canaries, data / "around", "around"))


CODE_IN_TEXT = ("$(touch INJECTED)", "{{ ''.__class__ }}", "__import__('os').system('touch INJECTED')")


def test_training_among_canaries(cage: Cage, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In channels known and unknown, model, output, configuration, checkpoints, home, temporary folder, and cwd."""
    data = draw_channels(tmp_path_factory.getbasetemp())
    job = lay_out_job(cage.data / "ml", data, class_names=", ".join((*CODE_IN_TEXT, "other")), _note=CODE_IN_TEXT[0])
    job.list_channels(*CHANNELS, "code")
    folders = [job.base / name for name in ("model", "output/data", "input/config", "checkpoints", "code")]
    folders += [*map(job.channel, (*CHANNELS, "code")), cage.data / "home", cage.data / "tmp"]
    for number, folder in enumerate(folders):
        cage.canaries.plant_scripts(folder, f"folder-{number}")
    (job.model / "model_best.params").write_bytes(cage.canaries.build_pickle("earlier-model"))
    photo = min(job.channel("train").glob("*.jpg"))
    photo.write_bytes(cage.canaries.build_picture("photo"))
    mask = job.channel("train_annotation") / f"{photo.stem}.png"
    mask.write_bytes(encode_picture(draw_noise(40, 40)[..., 0] % 4))
    places = {"SAGEMAKER_BASE_DIR": str(job.base), "HOME": str(cage.data / "home"), "TMPDIR": str(cage.data / "tmp")}
    code, output = cage.run(TRAIN, **places)
    assert code == 0, output
    assert (job.model / "model.onnx").is_file()
    assert (job.base / "output" / "data" / "report.html").is_file()
    assert list(cage.data.rglob("INJECTED")) == []
    cage.check_silent()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _put_in_channel(channel: str, name: str, build: Callable[[Canaries], bytes]) -> Place:
    def place(job: Job, canaries: Canaries) -> None:
        _write(job.channel(channel) / name, build(canaries))
        job.list_channels(*dict.fromkeys([*CHANNELS, channel]))
        if channel == "pretrained":
            job.set_hyperparameters(use_pretrained_model="True")

    return place


def _replace_photo(job: Job, canaries: Canaries) -> None:
    min(job.channel("train").glob("*.jpg")).write_bytes(canaries.build_pickle("refused"))


def _put_checkpoint(job: Job, canaries: Canaries) -> None:
    """A checkpoint whose checksum is right."""
    content = canaries.build_pickle("checkpoint")
    digest = hashlib.sha256(content).hexdigest()
    _write(job.base / "checkpoints" / f"checkpoint-000001-{digest}.params", content)


REFUSED_JOBS: dict[str, Place] = {
    "model": _put_in_channel("model", "model_best.params", lambda c: c.build_pickle("refused")),
    "model: archive": _put_in_channel("model", "model.tar.gz", lambda c: c.build_script_archive("refused")),
    "weights": _put_in_channel("pretrained", "resnet-18.params", lambda c: c.build_pickle("refused")),
    "weights: PyTorch": _put_in_channel("pretrained", "resnet18.safetensors", lambda c: c.build_torch("refused")),
    "label map": _put_in_channel("label_map", "validation_label_map.json", lambda c: c.build_yaml("refused")),
    "photo": _replace_photo,
    "checkpoint": _put_checkpoint,
    "configuration": lambda job, c: _write(job.config("hyperparameters"), c.build_pickle("refused")),
    "hyperparameter": lambda job, _: job.set_hyperparameters(epochs=CODE_IN_TEXT[2]),
}


def _run_calls(cage: Cage, calls: list[list[Any]]) -> tuple[Mapping[str, int], str]:
    """The exit codes of calls, see watched_calls.py, and what all of them wrote."""
    (cage.data / "calls.json").write_text(json.dumps(calls), encoding="utf-8")
    codes = cage.data / "codes.json"
    # No weights on this machine and none from a network: looking for them would be a connection, and rightly so.
    places = {"MXNET_HOME": str(cage.data / "mxnet"), "MXNET_GLUON_REPO": "http://127.0.0.1:9/"}
    code, output = cage.run(ROOT / "tests" / "watched_calls.py", cage.data / "calls.json", codes, **places)
    assert code == 0, output
    return json.loads(codes.read_text(encoding="utf-8")), output


def test_jobs_that_are_refused(cage: Cage, tmp_path_factory: pytest.TempPathFactory) -> None:
    data, calls = draw_channels(tmp_path_factory.getbasetemp()), []
    for number, (name, place) in enumerate(REFUSED_JOBS.items()):
        job = lay_out_job(cage.data / str(number), data)
        place(job, cage.canaries)
        calls.append([name, "train", str(job.base), []])
    codes, output = _run_calls(cage, calls)
    assert codes == dict.fromkeys(REFUSED_JOBS, 2), output
    assert list(cage.data.rglob("INJECTED")) == []
    cage.check_silent()


BAD_MODELS: dict[str, tuple[str, Callable[[Canaries], bytes]]] = {
    "ONNX": ("model.onnx", lambda canaries: canaries.build_onnx("library")),
    "card": ("model_card.json", lambda canaries: canaries.build_pickle("card")),
    "archive": ("model.tar.gz", lambda canaries: canaries.build_script_archive("archive")),
}
"""What replaces a file of a good model, or is the only one in its folder."""


def test_commands_among_canaries(cage: Cage, trained_model: Path, drawn_channels: Mapping[str, Path]) -> None:
    channels = Path(shutil.copytree(drawn_channels["train"].parent, cage.data / "channels"))
    photos = cage.data / "photos"
    _write(photos / "a.jpg", cage.canaries.build_picture("photo"))
    model = Path(shutil.copytree(trained_model, cage.data / "model"))
    for folder in (channels, channels / "train", channels / "label_map", photos, model):
        cage.canaries.plant_scripts(folder, folder.name)
    archive = shutil.make_archive(str(cage.data / "good"), "gztar", model)
    output = ["--output", str(cage.data / "out")]
    backbone, bad_photos = cage.data / "backbone.safetensors", cage.data / "bad"
    _write(backbone, cage.canaries.build_torch("backbone"))
    _write(bad_photos / "b.jpg", cage.canaries.build_pickle("photo"))
    good: dict[str, list[str]] = {
        "check": ["check", str(channels)],
        "predict": ["predict", str(photos), "--model", str(model), *output, "--overlay"],
        "evaluate": ["evaluate", *map(str, sorted(channels.glob("validation*"))), "--model", archive],
        "export": ["export", str(model)],
        "report": ["report", str(model), "--out", str(cage.data / "out")],
    }
    bad: dict[str, list[str]] = {
        "predict, pickle": ["predict", str(bad_photos), "--model", str(model), *output],
        "convert": ["convert", str(backbone), "--backbone", "resnet-18", *output],
    }
    for name, (file, build) in BAD_MODELS.items():
        folder = cage.data / f"bad-{name}"
        cage.canaries.plant_scripts(folder, f"bad-{name}")
        if name != "archive":
            for kept in ("model_card.json", "model_best.params"):
                shutil.copy(trained_model / kept, folder)
        _write(folder / file, build(cage.canaries))
        bad[f"predict with {name}"] = ["predict", str(photos), "--model", str(folder), *output]
    calls = [[name, "gluonseg", str(cage.data), arguments] for name, arguments in {**good, **bad}.items()]
    codes, log = _run_calls(cage, calls)
    assert codes == {**dict.fromkeys(good, 0), **dict.fromkeys(bad, 2)}, log
    cage.check_silent()


def test_serving_among_canaries(cage: Cage, trained_model: Path) -> None:
    base = cage.data / "ml"
    model = Path(shutil.copytree(trained_model, base / "model"))
    cage.canaries.plant_scripts(model, "model")
    cage.canaries.plant_scripts(base, "base")
    cage.canaries.plant_scripts(cage.data / "home", "home")
    port = find_free_port()
    variables = {"SAGEMAKER_BASE_DIR": str(base), "SAGEMAKER_BIND_TO_PORT": str(port), "HOME": str(cage.data / "home")}
    variables["SAGEMAKER_PROGRAM"] = "inference.py"  # other servers take a handler from it
    environment = build_environment("PYTHON", **cage.variables, OMP_NUM_THREADS="1", **variables)
    with started_server([sys.executable, str(SERVE)], port, cage.data / "log", environment, cage.around) as server:
        server.wait_until_served()
        for name, (body, kind) in build_bodies(cage.canaries).items():
            answer = server.request("/invocations", body, {"Content-Type": kind})
            assert answer.status == 200 if name == "picture with code" else 400 <= answer.status < 500, name
        log = server.read_log()
        assert server.stop() == 0, log
    cage.check_silent(of_server=True)


RUNS_DATA = re.compile(
    r"\b(import|from) (pickle|dill|marshal|shelve|joblib|yaml|torch|xml(?!\.etree))\b"
    r"|(?<![.\w])(eval|exec|compile|__import__)\("
    r"|\b(np|numpy|nd)\.load\(|\bos\.(system|popen)\b|\bload_states\b|shutil\.unpack_archive|shell=True"
    r"|extractall\((?!.*filter=.data)"  # the filter keeps members in the folder
)
"""Source that runs, or can be made to run, what it reads. xml.etree opens no outside entity and bounds the others."""


def test_no_module_could_run_data() -> None:
    files = [path for path in (ROOT / "src").rglob("*.py") if path.name != "demo.py"]
    files += [ROOT / "container" / "train", ROOT / "container" / "serve"]
    assert [path.name for path in files if RUNS_DATA.search(path.read_text(encoding="utf-8"))] == []
    assert all(map(RUNS_DATA.search, ("import pickle", "eval(x)", "mx.nd.load(x)", "archive.extractall(x)")))


UNSAFE = """
import ctypes, os, pickle, sys, urllib.request
from contextlib import suppress
from pathlib import Path

data = Path(sys.argv[1])
pickle.load(open(data / "model.pkl", "rb"))
sys.path.insert(0, str(data))
import model_handler
os.system((data / "train.sh").read_text())
with suppress(OSError):
    ctypes.CDLL(str(data / "library.so"))
with suppress(OSError):
    urllib.request.urlopen("http://127.0.0.1:9/")
"""


def test_the_watch_sees_a_program_that_is_not_careful(cage: Cage) -> None:
    """The hook writes down each of its mistakes, and a canary leaves its mark."""
    cage.canaries.plant_scripts(cage.data / "model", "sung")
    code, output = cage.run("-c", UNSAFE, cage.data / "model")
    assert code == 0, output
    with pytest.raises(AssertionError):
        cage.check_silent()
    events = {line[0] for line in audit_hook.read_events(cage.log)}
    assert events >= {"pickle.find_class", "exec", "os.system", "ctypes.dlopen", "socket.connect", audit_hook.SUNG}
    assert cage.canaries.find_sung() == ["sung"]
