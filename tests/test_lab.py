"""`make lab` cleans a notebook as it is saved: opening and saving one in JupyterLab without an edit changes no byte."""
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

root = Path(__file__).parent.parent
PARAMETERS, PICTURES, RESULTS = "runs/20_train_recommenders.ipynb", "index.ipynb", "results.ipynb"
NOTEBOOKS = ["00_core/10_paths.ipynb", "40_recommenders/20_factorization.ipynb", PARAMETERS, PICTURES, RESULTS]


class Server:
    "The contents API of a running Jupyter server."

    def __init__(self, url: str, token: str, folder: Path, opening: str):
        self.url, self.folder, self.opening, self.session = url, folder, opening, requests.Session()
        self.session.headers["Authorization"] = f"token {token}"

    def opened(self, path: str) -> dict:
        "What JupyterLab is given when a notebook is opened."
        reply = self.session.get(f"{self.url}api/contents/nbs/{path}", params={"type": "notebook", "content": 1}, timeout=60)
        reply.raise_for_status()
        return reply.json()["content"]

    def save(self, path: str, content: dict) -> None:
        "What JupyterLab sends on Ctrl-S."
        body = {"type": "notebook", "format": "json", "content": content}
        self.session.put(f"{self.url}api/contents/nbs/{path}", json=body, timeout=60).raise_for_status()


def lab_command(folder: Path) -> tuple[dict[str, str], list[str]]:
    "Environment and arguments of the Makefile's target `lab`, for a project in another folder."
    recipe = (root / "Makefile").read_text(encoding="utf-8").split("\nlab:")[1].splitlines()[1]
    settings, arguments = recipe.replace("$(CURDIR)", str(folder)).split("$(BIN)/jupyter lab")
    return dict(part.split("=", 1) for part in shlex.split(settings)), shlex.split(arguments)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    "JupyterLab as `make lab` starts it, in a copy of the notebooks and with folders of its own for everything it keeps."
    folder, state = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("state")
    shutil.copytree(root / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(root / ".jupyter", folder / ".jupyter")
    shutil.copy(root / "settings.ini", folder)
    settings, arguments = lab_command(folder)
    own = {name: str(state / name.lower()) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    environment = os.environ | own | settings | {"JUPYTER_RUNTIME_DIR": str(state / "runtime")}
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", *arguments, "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0",
               f"--IdentityProvider.token={token}"]
    with (state / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        url = address(process, state / "runtime", state / "log")
        opening = re.search(r'href="([^"]+)"', next((state / "runtime").glob("jpserver-*-open.html")).read_text(encoding="utf-8"))
        yield Server(url, token, folder, opening[1].replace("localhost", "127.0.0.1"))
    finally:
        process.terminate()
        process.wait(timeout=30)


def address(process: subprocess.Popen, runtime: Path, log: Path) -> str:
    "Where the server listens, as soon as it does."
    for _ in range(240):
        found = list(runtime.glob(f"jpserver-{process.pid}.json"))
        if found and (text := found[0].read_text(encoding="utf-8")).endswith("}"):
            return f"http://127.0.0.1:{json.loads(text)['port']}/"
        assert process.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(.25)
    raise AssertionError(f"no server after a minute: {log.read_text(encoding='utf-8')}")


def as_run_in_the_lab(content: dict) -> dict:
    "The same notebook after all cells were run in JupyterLab with the same outputs: what it adds is not the author's."
    content["metadata"]["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    content["metadata"]["language_info"] = {"name": "python", "version": "3.11.9", "file_extension": ".py"}
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    for count, cell in enumerate(code, 1):
        cell["execution_count"] = count
        cell["metadata"] |= {"trusted": True, "collapsed": False, "scrolled": True, "editable": True, "slideshow": {"slide_type": ""},
                             "execution": {"iopub.execute_input": "2026-01-01T00:00:00.000000Z"}}
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = count
    return content


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_saving_without_an_edit_changes_no_byte(server: Server, path: str):
    file = server.folder / "nbs" / path
    before = file.read_bytes()
    server.save(path, server.opened(path))
    assert file.read_bytes() == before
    server.save(path, as_run_in_the_lab(server.opened(path)))
    assert file.read_bytes() == before


def test_an_edit_is_saved_and_tags_and_outputs_stay(server: Server):
    "The cell that papermill looks for keeps its tag, and pictures stay where they are."
    for path, sign in ((PARAMETERS, '"parameters"'), (PICTURES, '"image/png"')):
        content = server.opened(path)
        content["cells"][0]["source"] += "\n\nOne more line."
        server.save(path, content)
        text = (server.folder / "nbs" / path).read_text(encoding="utf-8")
        assert "One more line." in text and sign in text


def test_nothing_is_left_beside_the_notebooks_but_what_git_ignores(server: Server):
    path = NOTEBOOKS[1]
    server.save(path, server.opened(path))
    files = {file.relative_to(server.folder).as_posix() for file in server.folder.rglob("*") if file.is_file()}
    known = {file.relative_to(root).as_posix() for name in ("nbs", ".jupyter") for file in (root / name).rglob("*")}
    left = {file for file in files - known - {"settings.ini"} if ".ipynb_checkpoints" not in file and "__pycache__" not in file}
    assert not left, left


def test_the_index_is_opened_from_the_root_of_the_project(server: Server):
    "So that links from a notebook to a report can be followed."
    assert server.opening.startswith(f"{server.url}lab/tree/nbs/index.ipynb?")
    assert server.session.get(f"{server.url}api/contents/settings.ini", timeout=60).ok
