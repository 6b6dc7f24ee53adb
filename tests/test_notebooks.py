"""One case per library notebook, each in its own process: every cell runs, top to bottom."""
from pathlib import Path

import pytest
from forked import run_notebook
from nbdev.config import get_config
from nbdev.doclinks import nbglob

config = get_config()
library = sorted(path for path in nbglob(config.nbs_path, as_path=True) if not (path.parent / ".notest").exists())
names = pytest.mark.parametrize("notebook", library, ids=lambda path: f"{path.parent.name}/{path.stem}")


def test_there_are_notebooks():
    assert len(library) > 10, "the glob for library notebooks found almost nothing"


@names
def test_notebook(notebook: Path, tmp_path: Path):
    report = tmp_path / "printed.txt"
    status = run_notebook(notebook.absolute(), Path(config.config_path), report, seconds=600)
    assert status is not None, f"no end after 600 s\n{report.read_text('utf-8')}"
    assert status == 0, report.read_text("utf-8", "replace")


def test_a_failing_cell_is_seen(tmp_path: Path):
    "The runner itself: a cell that fails, one that ends the process, and one that passes."
    from nbformat.v4 import new_code_cell, new_notebook
    import nbformat
    for source, expected in (("assert 1 + 1 == 3", 1), ("import os; os._exit(3)", 3), ("1 / 0", 1), ("x = 1", 0)):
        path = tmp_path / "one.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell("import math"), new_code_cell(source)]), path)
        assert run_notebook(path, Path(config.config_path), tmp_path / "printed.txt", seconds=60) == expected, source
