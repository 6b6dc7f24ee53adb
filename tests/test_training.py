"""Training with real processes: killed in the middle of a save, and shared between two.

The lessons of `20_training/50_fit` simulate interruptions within one process; here the processes are real. Each script
below runs in a process of its own, so nothing of it leaks into the other tests.
"""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_script(folder: Path, source: str, *launcher: str) -> dict:
    "Run a script in a new process (by a launcher, if given); what it wrote to result.json."
    script = folder / "script.py"
    script.write_text(source, encoding="utf-8")
    command = [sys.executable, *launcher, str(script), str(folder)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


KILLED = '''
"""Train; then train again and again, each time killed at a later call to the operating system, and go on."""
import hashlib, json, os, signal, sys
from pathlib import Path
from typing import NamedTuple
import torch
from torch import Tensor, nn
from diffrec.core.checkpoints import latest_checkpoint, load_checkpoint, pack_state
from diffrec.core.seeds import rng_for, seed_everything
from diffrec.training.config import FitConfig
from diffrec.training.fit import fit

class Points(NamedTuple):
    x: Tensor
    y: Tensor

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(.3), nn.ReLU(), nn.Linear(8, 1))
    def loss(self, batch, generator):
        noise = .1 * torch.randn(batch.x.shape, generator=generator)
        return (self.layers(batch.x + noise).squeeze(1) - batch.y).square().mean()

def batches(epoch):
    rng = rng_for(0, f"epoch {epoch}")
    x = torch.from_numpy(rng.standard_normal((12, 3))).float()
    return [Points(x[rows], x[rows].sum(1)) for rows in torch.arange(12).split(7)]

CONFIG = FitConfig(n_epochs=2, optimizer="adamw", learning_rate=.05, ema_decay=.9, clip_norm=1., schedule="cosine",
                   checkpoint_steps=3, keep_checkpoints=1, device="cpu")

def train(folder, start):
    seed_everything(start)
    model = Noisy()
    score = lambda: -(model.layers(torch.ones(4, 3)) - 3).square().mean().item()
    fit(model, batches, CONFIG, seed=1, validate=score, folder=folder)

def killed_at(call, folder):
    "SIGKILL to ourselves just before the given call that flushes, renames or removes."
    seen = [0]
    def guard(real):
        def guarded(*args, **kwargs):
            if seen[0] == call: os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1
            return real(*args, **kwargs)
        return guarded
    for name in ("fsync", "replace", "mkdir", "rmdir", "unlink"): setattr(os, name, guard(getattr(os, name)))
    train(folder, start=0)

def in_child(work, *arguments):
    "Run in a forked process; the number of the signal that ended it."
    child = os.fork()
    if child == 0:
        try: work(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

def fingerprint(folder):
    "Step and hash of the newest whole checkpoint, without wall clock; None if there is none."
    path = latest_checkpoint(Path(folder) / "checkpoints")
    if path is None: return None
    state = load_checkpoint(path)
    del state["progress"]["seconds"]
    for row in state["progress"]["rows"]: del row["seconds"]
    tensors = {}
    text = json.dumps(pack_state(state, tensors), sort_keys=True)
    content = b"".join(name.encode() + tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))
    return state["stepper"]["n_steps"], hashlib.sha256(text.encode() + content).hexdigest()

top = Path(sys.argv[1])
train(top / "alone", start=0)                        # here, so that the children inherit what is loaded lazily
result, call = {"alone": fingerprint(top / "alone"), "runs": []}, 0
while not result["runs"] or result["runs"][-1]["signal"]:
    folder = top / f"killed {call}"
    ended_by = in_child(killed_at, call, folder)
    left = fingerprint(folder)
    in_child(train, folder, 777 if left else 0)              # another start: only the checkpoint can bring it back
    result["runs"].append({"signal": ended_by, "left": left and left[0], "end": fingerprint(folder),
                           "folders": sorted(path.name for path in (folder / "checkpoints").iterdir())})
    call += 1
(top / "result.json").write_text(json.dumps(result))
'''


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    return run_script(tmp_path_factory.mktemp("killed"), KILLED)


def test_a_run_killed_at_any_moment_ends_like_one_left_alone(killed):
    *interrupted, last = killed["runs"]
    assert {run["signal"] for run in interrupted} == {int(signal.SIGKILL)} and last["signal"] == 0
    assert len(interrupted) > 30                                     # three saves, a dozen calls or so in each
    assert {run["left"] for run in interrupted} == {None, 2, 3, 4}   # killed before, within and after every save
    assert all(run["end"] == killed["alone"] for run in killed["runs"])


def test_a_kill_never_loses_the_last_whole_checkpoint(killed):
    steps = [run["left"] or 0 for run in killed["runs"]]
    assert steps == sorted(steps)                                    # a later kill never leaves an earlier place
    assert all(len(run["folders"]) == 1 for run in killed["runs"]    # and the next save sweeps away what it left,
               if run["left"] != 4)                                  # if there is a next save


SHARED = '''
"""Train and evaluate; the same script for one process and for two."""
import json, sys
from pathlib import Path
from typing import NamedTuple
import numpy as np
import torch
from torch import Tensor, nn
from diffrec.core.contracts import Triplets, bpr_loss
from diffrec.core.seeds import rng_for
from diffrec.training.config import FitConfig
from diffrec.training.fit import fit
from diffrec.training.processes import current_process, gather_parts, gather_rows, users_of_process
from dataclasses import replace

U, I, K = 23, 17, 5

class Graph(nn.Module):
    "Factors smoothed once over a sparse graph: a buffer that cannot be sent between processes."
    def __init__(self, dropout=0.):
        super().__init__()
        self.factors = nn.Embedding(U + I, 8)
        self.dropout = nn.Dropout(dropout)
        graph = torch.from_numpy(rng_for(0, "graph").random((U + I, U + I)) < .1).float() + torch.eye(U + I)
        rows, columns = graph.nonzero().T
        starts = torch.searchsorted(rows, torch.arange(U + I + 1))
        adjacency = torch.sparse_csr_tensor(starts, columns, graph[rows, columns] / 4, (U + I, U + I))
        self.register_buffer("adjacency", adjacency, persistent=False)
    def embeddings(self): return torch.sparse.mm(self.adjacency, self.dropout(self.factors.weight)).split([U, I])
    def loss(self, batch, generator):
        users, items = self.embeddings()
        score = lambda chosen: (users[batch.users].unsqueeze(1) * items[chosen]).sum(2)
        return bpr_loss(score(batch.items.unsqueeze(1)).squeeze(1), score(batch.negatives))

def batches(epoch):
    "41 events in tens: the last batch has one row, so one of two processes has none."
    rng = rng_for(0, f"epoch {epoch}")
    users, items = rng.integers(0, U, 41), rng.integers(0, I // 2, 41)
    triplets = Triplets(*map(torch.from_numpy, (users, items, rng.integers(I // 2, I, (41, 3)))))
    return [Triplets(*(array[rows] for array in triplets)) for rows in torch.arange(41).split(10)]

def rank_shared(model):
    "Every process ranks its users; everyone gets the lists of all."
    users, items = model.embeddings()
    own = users_of_process(U, *current_process("cpu"))
    return gather_rows(torch.argsort(users[own] @ items.T, dim=1, descending=True, stable=True)[:, :K].numpy())

def recall(ranked): return float((ranked < I // 2).mean())

def train(config, dropout=0., **extra):
    torch.manual_seed(current_process("cpu").rank)                          # the main process's weights must win
    model = Graph(dropout)
    history = fit(model, batches, config, seed=0, validate=lambda: recall(rank_shared(model)), **extra)
    return model, history

folder = Path(sys.argv[1])
config = FitConfig(n_epochs=4, learning_rate=.05, clip_norm=.5, ema_decay=.5, device="cpu")
result = {"place": list(current_process("cpu"))}
for name, changed in {"plain": config, "accumulated": replace(config, gradient_accumulation=2)}.items():
    model, history = train(changed)
    result[name] = {"loss": history.epochs["loss"].tolist(), "valid": history.epochs["valid"].tolist(),
                    "weights": model.factors.weight.tolist()}
weights = folder / "weights.json"
if not weights.exists(): weights.write_text(json.dumps(result["plain"]["weights"]))
model = Graph()
model.factors.weight.data.copy_(torch.tensor(json.loads(weights.read_text())))
with torch.no_grad(): result["ranked"] = rank_shared(model).tolist()

half = folder / f"half {current_process('cpu').n_processes}"
straight, _ = train(config, dropout=.3)
train(replace(config, max_steps=7), dropout=.3, folder=half)               # in the middle of the second epoch
resumed, history = train(config, dropout=.3, folder=half)
equal = torch.equal(straight.factors.weight, resumed.factors.weight)
result["resumed_equal"] = gather_parts(equal)
result["rows"] = len((half / "history.jsonl").read_text().splitlines())
everyone = gather_parts(resumed.factors.weight.tolist())
result["processes_agree"] = all(weights == everyone[0] for weights in everyone)
if current_process().rank == 0: (folder / "result.json").write_text(json.dumps(result))
'''


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    "Results of the same script on one process and on two."
    folder = tmp_path_factory.mktemp("shared")
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2",
              "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no")
    return run_script(folder, SHARED), run_script(folder, SHARED, *launch)


@pytest.mark.parametrize("name", ["plain", "accumulated"])
def test_two_processes_train_like_one(shared, name):
    one, two = shared
    assert (one["place"], two["place"]) == ([0, 1], [0, 2])
    assert two[name]["loss"] == pytest.approx(one[name]["loss"], rel=1e-5)
    for ours, theirs in zip(two[name]["weights"], one[name]["weights"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)   # float32 sums in another order, over Adam's small moments
    assert two["processes_agree"]


def test_an_evaluation_gathered_over_processes_is_that_of_one(shared):
    one, two = shared
    assert two["ranked"] == one["ranked"]                            # the same lists in the same order ...
    assert len(two["ranked"]) == 23                                  # ... one a user: 23 users, nobody padded
    assert two["plain"]["valid"] == pytest.approx(one["plain"]["valid"], abs=1 / 115)   # one of 23 x 5 places


def test_two_processes_resume_bit_for_bit(shared):
    for result in shared:
        assert all(result["resumed_equal"])
        assert result["rows"] == 4
