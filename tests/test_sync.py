"""The package is what the notebooks export, the notebooks are clean, and no name in the package is undefined."""
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
IMPORT_NAMES = {"open_clip_torch": "open_clip", "scikit-learn": "sklearn", "pillow": "PIL"}


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


@pytest.mark.parametrize("notebook", notebooks, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook_keeps_the_house_rules(notebook: Path):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = ["".join(cell["source"]) for cell in code]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# "), "the title cell is first"
    if notebook.parent.name == "runs":
        assert not any(cell["outputs"] for cell in code), "run notebooks are committed without outputs"
        assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1, "one cell tagged parameters"
        assert not any(line.startswith(("def ", "class ")) for source in text for line in source.splitlines())
        return
    assert notebook.stat().st_size < 400_000, "committed outputs are small"
    assert any(cell["outputs"] for cell in code), "library notebooks are committed with their outputs"
    for source in text:
        exported = source.splitlines() if source.lstrip().startswith("#| export") else []
        lines = [line for line in exported if line.strip() and not line.lstrip().startswith("#|")]
        assert len(lines) <= 60, f"an exported cell has {len(lines)} lines, the limit is 60: {lines[0]}"
    errors = [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert not errors
