"""Notebooks and kernels in processes that are forked from a server with the large packages loaded, and nothing of this project."""
import os
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

FORKED = get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "pandas", "scipy.sparse", "sklearn.linear_model", "matplotlib.pyplot",
                               "sklearn.cluster", "accelerate", "transformers", "diffusers.models.transformers", "peft", "open_clip",
                               "torch.utils.tensorboard", "hypothesis", "nbdev.test", "ipykernel.kernelapp"])


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


# Kernels of run notebooks.


def serve_kernel(arguments: list[str], folder: str, environment: dict[str, str], leads: Connection) -> None:
    "In the forked process: be the kernel that a command `python -m ipykernel_launcher ...` would start."
    os.setsid()                                              # signals to the kernel go to its process group
    leads.send(True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"     # of kernels; it joins the one that is there
    sys.modules.pop("matplotlib_inline.backend_inline", None)                        # as it is loaded
    IPKernelApp.launch_instance(arguments)


class ForkedKernel:
    "A kernel in a forked process, with what jupyter_client uses of `subprocess.Popen`."
    stdin = stdout = stderr = None

    def __init__(self, command: list[str], env: dict[str, str], cwd: str = ".", **rest: object):
        assert command[1:3] == ["-m", "ipykernel_launcher"], command
        leads, leader = FORKED.Pipe()
        self.process = FORKED.Process(target=serve_kernel, args=(command[3:], os.path.abspath(cwd), env, leader))
        self.process.start()
        leader.close()                                       # so that a kernel that dies at once is an error here, not a wait
        leads.recv()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)
