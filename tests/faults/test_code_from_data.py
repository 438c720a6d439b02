"""Nothing in data is ever run, loaded or connected to: real programs, watched by Python's audit hooks, among canaries.

A canary is a file that leaves a mark when something opens it as what it pretends to be. Besides the marks, the hook
(tests/audit_hook.py) writes down every pickle that looks up a name, every program that is started, every connection,
every library from the data, and every piece of code that is compiled or run and comes from there.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import audit_hook
from audit_hook import CASE, STARTED
from canary import Canaries, build_bodies, plant_around
from hostile_archive import pack
from job_layout import TRAIN, Job, draw_channels, lay_out_job
from local_server import SERVE, find_free_port, started_server
from picture import draw_noise, encode_picture
from program import build_environment, run_program
from repository import ROOT

Place = Callable[[Job, Canaries], object]
FONTS = ("subprocess.Popen", "fc-list")
"""matplotlib asks the system for its fonts, where it has not done so before."""
LISTENS = ("socket.getaddrinfo", "0.0.0.0")
TOLD = ("multiprocessing.", "concurrent.futures.process", "gluonseg.", "pathlib")
"""Modules of what the server's two processes tell each other; of what a client has sent, bytes alone are among it."""


def _is_of_server(line: list[str]) -> bool:
    return line[:2] == list(LISTENS) or (line[0] == "pickle.find_class" and line[1].startswith(TOLD))


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


CODE_IN_TEXT = (
    "$(touch INJECTED)",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "__import__('os').system('touch INJECTED')",
    "!!python/object/apply:os.system [touch INJECTED]",
)


def test_training_among_canaries(cage: Cage, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In channels known and unknown, model, output, configuration, checkpoints, home, temporary folder, and cwd."""
    names = [name.replace(",", ";") for name in CODE_IN_TEXT]
    data = draw_channels(tmp_path_factory.getbasetemp())
    job = lay_out_job(cage.data / "ml", data, class_names=", ".join(names), _note=CODE_IN_TEXT[0])
    for folder in ("train", "train_annotation", "validation", "validation_annotation", "label_map", "code", "test"):
        cage.canaries.plant_scripts(job.channel(folder), folder)
    for folder in ("model", "output", "output/data", "input/config", "input", "checkpoints", "code"):
        cage.canaries.plant_scripts(job.base / folder, folder.replace("/", "-"))
    for folder in ("home", "tmp"):
        cage.canaries.plant_scripts(cage.data / folder, folder)
    (job.model / "model_best.params").write_bytes(cage.canaries.build_pickle("earlier-model"))
    (job.base / "checkpoints" / "checkpoint.states").write_bytes(cage.canaries.build_pickle("states", 0))
    photo = min(job.channel("train").glob("*.jpg"))
    photo.write_bytes(cage.canaries.build_picture("photo"))
    mask = job.channel("train_annotation") / f"{photo.stem}.png"
    mask.write_bytes(encode_picture(draw_noise(40, 40)[..., 0] % 4))
    job.list_channels("train", "train_annotation", "validation", "validation_annotation", "label_map", "code", "test")
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
        known = ("train", "train_annotation", "validation", "validation_annotation", "label_map")
        job.list_channels(*dict.fromkeys([*known, channel]))
        if channel == "pretrained":
            job.set_hyperparameters(use_pretrained_model="True")

    return place


def _replace_first(channel: str, build: Callable[[Canaries], bytes]) -> Place:
    return lambda job, canaries: _write(min(job.channel(channel).glob("*.*")), build(canaries))


def _put_checkpoint(job: Job, canaries: Canaries) -> None:
    """A checkpoint whose checksum is right."""
    content = canaries.build_pickle("checkpoint", 2)
    digest = hashlib.sha256(content).hexdigest()
    _write(job.base / "checkpoints" / f"checkpoint-000001-{digest}.params", content)


def _put_config(name: str) -> Place:
    return lambda job, canaries: job.config(name).write_bytes(canaries.build_pickle(name, 0))


def _set(name: str, value: str) -> Place:
    return lambda job, canaries: job.set_hyperparameters(**{name: value})


def _pickle(protocol: int = 2) -> Callable[[Canaries], bytes]:
    return lambda canaries: canaries.build_pickle("refused", protocol)


def _archive(member: str, build: Callable[[Canaries], bytes]) -> Callable[[Canaries], bytes]:
    return lambda canaries: pack((member, build(canaries), {}), ("code/inference.py", b"", {}))


def _build_npz(canaries: Canaries) -> bytes:
    return canaries.build_npz("refused")


REFUSED_JOBS: dict[str, Place] = {
    "model: pickle for parameters": _put_in_channel("model", "model_best.params", _pickle()),
    "model: scripts in an archive": _put_in_channel("model", "model.tar.gz", lambda c: c.build_script_archive("x")),
    "model: ONNX in Python": _put_in_channel("model", "model.onnx", lambda c: c.build_onnx("refused")),
    "pretrained: pickle": _put_in_channel("pretrained", "resnet-18.params", _pickle()),
    "pretrained: PyTorch": _put_in_channel("pretrained", "resnet18.safetensors", lambda c: c.build_torch("refused")),
    "label map: YAML": _put_in_channel("label_map", "validation_label_map.json", lambda c: c.build_yaml("refused")),
    "photo: pickle": _replace_first("train", _pickle()),
    "mask: npz": _replace_first("validation_annotation", _build_npz),
    "checkpoint: pickle of the right checksum": _put_checkpoint,
    "configuration: pickle": _put_config("hyperparameters"),
    "hyperparameter: Python": _set("epochs", CODE_IN_TEXT[2]),
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
    assert {name: code for name, code in codes.items() if code != 2} == {}, output
    assert codes.keys() == REFUSED_JOBS.keys()
    assert list(cage.data.rglob("INJECTED")) == []
    cage.check_silent()


BAD_MODELS: dict[str, tuple[str, Callable[[Canaries], bytes]]] = {
    "ONNX with a library": ("model.onnx", lambda canaries: canaries.build_onnx("library")),
    "card": ("model_card.json", _pickle(0)),
    "archive of scripts": ("model.tar.gz", lambda canaries: canaries.build_script_archive("archive")),
}
"""What a model folder holds alone, but for the card, which is in the place of a good one."""


def _lay_out_bad_models(cage: Cage, trained_model: Path) -> dict[str, Path]:
    folders = {}
    for number, (name, (file, build)) in enumerate(BAD_MODELS.items()):
        folder = folders[name] = cage.data / f"model-{number}"
        cage.canaries.plant_scripts(folder, f"model-{number}")
        if file in ("model_card.json", "model.onnx"):
            shutil.copy(trained_model / "model_card.json", folder)
        if file == "model_card.json":
            shutil.copy(trained_model / "model_best.params", folder)
        _write(folder / file, build(cage.canaries))
    return folders


def test_commands_among_canaries(cage: Cage, trained_model: Path, drawn_channels: Mapping[str, Path]) -> None:
    channels = Path(shutil.copytree(drawn_channels["train"].parent, cage.data / "channels"))
    photos = cage.data / "photos"
    _write(photos / "a.jpg", cage.canaries.build_picture("photo"))
    model = Path(shutil.copytree(trained_model, cage.data / "model"))
    for folder in (channels, channels / "train", channels / "label_map", photos, model):
        cage.canaries.plant_scripts(folder, folder.name)
    archive = shutil.make_archive(str(cage.data / "good"), "gztar", model)
    out = [str(cage.data / "out")]
    _write(cage.data / "backbone.safetensors", cage.canaries.build_torch("backbone"))
    _write(cage.data / "bad" / "b.jpg", cage.canaries.build_pickle("photo"))
    good: dict[str, list[str]] = {
        "check": ["check", str(channels)],
        "predict": ["predict", str(photos), "--model", str(model), "--output", *out, "--overlay"],
        "evaluate": ["evaluate", *map(str, sorted(channels.glob("validation*"))), "--model", archive],
        "export": ["export", str(model)],
        "report": ["report", str(model), "--out", *out],
    }  # fmt: skip
    bad: dict[str, list[str]] = {
        "predict, pickle": ["predict", str(cage.data / "bad"), "--model", str(model), "--output", *out],
        "convert": ["convert", str(cage.data / "backbone.safetensors"), "--backbone", "resnet-18", "--output", *out],
        "prepare": ["prepare", "oxford-pets", str(channels), *out],
    }
    for name, folder in _lay_out_bad_models(cage, trained_model).items():
        bad[f"predict with {name}"] = ["predict", str(photos), "--model", str(folder), "--output", *out]
        bad[f"report on {name}"] = ["report", str(folder), "--channels", str(channels), "--out", *out]
    calls = [[name, "gluonseg", str(cage.data), arguments] for name, arguments in {**good, **bad}.items()]
    codes, output = _run_calls(cage, calls)
    assert {name: codes[name] for name in good if codes[name]} == {}, output
    assert {name: codes[name] for name in bad if codes[name] != 2} == {}, output
    cage.check_silent()


def test_serving_among_canaries(cage: Cage, trained_model: Path) -> None:
    base = cage.data / "ml"
    model = Path(shutil.copytree(trained_model, base / "model"))
    cage.canaries.plant_scripts(model, "model")
    cage.canaries.plant_scripts(base, "base")
    cage.canaries.plant_scripts(cage.data / "home", "home")
    port = find_free_port()
    variables = {"SAGEMAKER_BASE_DIR": str(base), "SAGEMAKER_BIND_TO_PORT": str(port), "HOME": str(cage.data / "home")}
    # What other servers take a handler, or code, from.
    variables |= {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": str(model / "code")}
    environment = build_environment("PYTHON", **cage.variables, OMP_NUM_THREADS="1", **variables)
    with started_server([sys.executable, str(SERVE)], port, cage.data / "log", environment, cage.around) as server:
        server.wait_until_served()
        for headers in ({}, {"X-Amzn-SageMaker-Target-Model": "../../sitecustomize.py", "Accept": "application/x-npy"}):
            for name, (body, kind) in build_bodies(cage.canaries).items():
                answer = server.request("/invocations", body, {**headers, "Content-Type": kind})
                assert answer.status == 200 if name == "picture with code" else 400 <= answer.status < 500, name
                inside = (b"Traceback", b"site-packages", str(cage.data).encode())
                assert not any(word in answer.body for word in inside)
        log = server.read_log()
        assert server.stop() == 0, log
    cage.check_silent(of_server=True)


MODULES = ("pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml", "torch", "xml", "imp", "code")
"""What runs, or can be made to run, what it reads."""
CALLS = ("eval", "exec", "compile", "__import__")
METHODS = (
    "load_states",
    "save_states",
    "set_optimizer",
    "extractall",
    "unpack_archive",
    "exec_module",
    "run_path",
    "find_loader",
)
FUNCTIONS = ("os.system", "os.popen", "np.load", "numpy.load", "nd.load", "mx.nd.load", "mxnet.nd.load")
ALLOWED = {("sitecustomize.py", "exec_module")}
"""It runs the next module of its own name, as Python would have without it, for a job's own script."""


def _find_unsafe(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                yield called.id
            elif isinstance(called, ast.Attribute) and called.attr in METHODS:
                words = {ast.unparse(word) for word in node.keywords}
                if called.attr != "extractall" or "filter='data'" not in words:  # which keeps members in the folder
                    yield called.attr
            elif ast.unparse(called) in FUNCTIONS:
                yield ast.unparse(called)
            yield from (word.arg or "" for word in node.keywords if word.arg == "shell")


def test_no_module_of_ours_could_run_data() -> None:
    files = sorted((ROOT / "src").rglob("*.py")) + sorted((ROOT / "container").glob("*"))
    found = {
        (path.name, name)
        for path in files
        if path.is_file() and path.name not in ("entrypoint", "demo.py")
        for name in _find_unsafe(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == ALLOWED


def test_what_is_looked_for_is_found() -> None:
    calls = ("eval(text)", "one.load_states(x)", "mx.nd.load(x)", "one.extractall(x)", "run(x, shell=True)")
    for source in ("from yaml import load", *calls):
        assert list(_find_unsafe(ast.parse(source))), source


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
