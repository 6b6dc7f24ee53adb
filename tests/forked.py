"""Notebooks in processes that are forked from a server with the large packages loaded, and nothing of this project."""
import os
import sys
from multiprocessing import get_context
from pathlib import Path

FORKED = get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "pandas", "scipy.sparse", "sklearn.linear_model", "matplotlib.pyplot",
                               "accelerate", "transformers", "diffusers", "peft", "hypothesis", "nbdev.test"])


def run_cells(notebook: Path, root: Path, report: Path) -> None:
    "In the forked process: run a notebook's cells with what is printed in a file; exits with 1 if one fails."
    descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.chdir(root)
    from nbdev.test import test_nb
    ok, _ = test_nb(notebook, skip_flags=("slow", "gpu", "network"), basepath=root)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(not ok)


def run_notebook(
    notebook: Path,    # below root/nbs
    root: Path,        # of the project or of a copy
    report: Path,      # what is printed goes here
    seconds: float,    # until the process is killed
) -> int | None:       # exit status; None if it did not end
    "Run the cells of a notebook, without those for slow runs, GPU or network, in a process of its own."
    process = FORKED.Process(target=run_cells, args=(notebook, root, report))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode
