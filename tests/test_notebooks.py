"""One case per library notebook, each in its own interpreter: every cell runs, top to bottom."""
import subprocess
import sys
from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob

config = get_config()
library = sorted(path for path in nbglob(config.nbs_path, as_path=True) if not (path.parent / ".notest").exists())
nbdev_test = str(Path(sys.executable).with_name("nbdev_test"))


def test_there_are_notebooks():
    assert len(library) > 10, "the glob for library notebooks found almost nothing"


@pytest.mark.parametrize("notebook", library, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook(notebook: Path):
    run = subprocess.run([nbdev_test, "--path", notebook, "--n_workers", "0"], cwd=config.config_path,
                         capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "No files were eligible" not in run.stdout + run.stderr
