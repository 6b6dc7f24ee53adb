"""The package is what the notebooks export, the notebooks are clean, and no name in the package is undefined."""
import ast
import configparser
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
tools = Path(sys.executable).parent
IMPORT_NAMES = {"open_clip_torch": "open_clip", "scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in path.parts}


def test_notebooks_and_package_are_in_sync_and_clean(tmp_path: Path):
    for name in ("nbs", "diffrec"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(root / "settings.ini", tmp_path)
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([tools / command], cwd=tmp_path, check=True, capture_output=True)
    for name in ("diffrec", "nbs"):
        before, after = contents(root / name), contents(tmp_path / name)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        assert not changed, f"out of sync or not clean: {changed}; run `make export` and commit the result"


def test_pyflakes_finds_nothing():
    run = subprocess.run([sys.executable, "-m", "pyflakes", "diffrec", "tests", "setup.py"], cwd=root,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def requirements() -> list[str]:
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    return [entry.split(">=")[0] for entry in parser["DEFAULT"]["requirements"].split()]


@pytest.mark.parametrize("requirement", requirements())
def test_dependency_imports(requirement: str):
    "A clean `pip check` does not prove that a package imports."
    importlib.import_module(IMPORT_NAMES.get(requirement, requirement))


notebooks = sorted((root / "nbs").rglob("*.ipynb"))


every_notebook = pytest.mark.parametrize("notebook", notebooks, ids=lambda path: f"{path.parent.name}/{path.stem}")


def cells_of(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def code_lines(source: str) -> list[str]:
    "Lines that are neither empty nor directives."
    return [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#|")]


@every_notebook
def test_notebook_keeps_the_house_rules(notebook: Path):
    cells = cells_of(notebook)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = ["".join(cell["source"]) for cell in code]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# "), "the title cell is first"
    long = [line for source in text for line in source.splitlines() if len(line) > 140]
    assert not long, f"{len(long)} code lines are over 140 characters, the first is {long[0][:60]!r}"
    if notebook.parent.name == "runs":
        return
    assert notebook.stat().st_size < 400_000, "committed outputs are small"
    assert any(cell["outputs"] for cell in code), "library notebooks are committed with their outputs"
    for source in text:
        lines = code_lines(source) if source.lstrip().startswith("#| export") else []
        assert len(lines) <= 60, f"an exported cell has {len(lines)} lines, the limit is 60: {lines[0]}"
    errors = [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert not errors
    assert "widgets" not in json.loads(notebook.read_text(encoding="utf-8"))["metadata"], "progress bars are not committed"


@pytest.mark.parametrize("notebook", sorted((root / "nbs" / "runs").glob("*.ipynb")), ids=lambda path: path.stem)
def test_run_notebooks_hold_parameters_calls_and_figures_only(notebook: Path):
    code = [cell for cell in cells_of(notebook) if cell["cell_type"] == "code"]
    text = ["".join(cell["source"]) for cell in code]
    assert not any(cell["outputs"] for cell in code), "run notebooks are committed without outputs"
    assert ["parameters" in cell["metadata"].get("tags", []) for cell in code] == [True] + [False] * (len(code) - 1), "the parameters come first"
    assert "check_parameters(globals()," in text[1], "the parameters are checked before anything else"
    for source in text:
        assert len(code_lines(source)) <= 60, f"a cell has {len(code_lines(source))} lines: {source[:60]!r}"
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)), f"{node.name} is defined in a run"
            assert not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)), "a lambda is given a name in a run"
    if notebook.stem == "42_evaluate_prior":
        assert sum(len(code_lines(source)) for source in text) <= 120


def parameter_names(source: str) -> set[str]:
    return {target.id for node in ast.parse(source).body for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}


@pytest.mark.parametrize("notebook", sorted((root / "nbs" / "runs").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_parameter_of_a_run_is_checked(notebook: Path):
    text = ["".join(cell["source"]) for cell in cells_of(notebook) if cell["cell_type"] == "code"]
    call = next(node for node in ast.walk(ast.parse(text[1])) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check_parameters")
    assert {keyword.arg for keyword in call.keywords} == parameter_names(text[0])


def test_public_names_are_defined_once():
    "One name for one thing: no function, class or constant of that name in two modules, but for what every system hands in."
    handed_in, places = {"PRESETS", "RECIPES", "NETWORKS"}, {}
    for path in (root / "diffrec").rglob("*.py"):
        if path.name in ("__init__.py", "_modidx.py"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
            names += [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
            for name in names:
                if not name.startswith("_") and name not in handed_in:
                    places.setdefault(name, set()).add(path.relative_to(root / "diffrec").as_posix())
    twice = {name: sorted(found) for name, found in places.items() if len(found) > 1}
    assert not twice, twice
