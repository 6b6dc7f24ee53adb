"""Small faults, put into a copy of the project one by one, that the tests near the code must see.

    make mutants                        # all faults of tests/mutants.toml
    make mutants ONLY="label-loss-off valid-means-test" WORKERS=2

A fault is put into the exported cell and into the module, in a temporary copy, never in the working tree. A fault
that leaves its tests green SURVIVED, and the exit status is 1. Tests are run without any fault first: if they fail
then, they see nothing, and that is an error too.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from forked import run_notebook

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
COPIED, LINKED = ("nbs", "diffrec", "tests", "settings.ini", "constraints.txt"), ("data", "outputs")
SECONDS = 600   # a test that takes longer has seen the fault


@dataclass(frozen=True)
class Mutant:
    "A small fault, and the tests that must see it."
    name: str
    module: str                      # below diffrec/, without .py
    old: str
    new: str
    seen_by: tuple[str, ...] = ()    # paths below nbs/, or "tests/test_NAME.py -k WORDS"; (): the module's notebook

    def files(self, root: Path) -> tuple[Path, Path]:
        "The module, and the notebook that its header names."
        module = root / "diffrec" / f"{self.module}.py"
        notebook = re.search(r"File to edit: (\S+\.ipynb)", module.read_text("utf-8"))[1]
        return module, (module.parent / notebook).resolve()

    def tests(self, root: Path) -> tuple[str, ...]:
        "What is run to see the fault."
        return self.seen_by or (str(self.files(root)[1].relative_to(root.resolve() / "nbs")),)

    def faulty(self, root: Path) -> dict[Path, str]:
        "Path -> its text with the fault; raises `ValueError` unless the old text occurs once in each of the two."
        module, path = self.files(root)
        notebook = json.loads(path.read_text("utf-8"))
        exported = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"
                    and "".join(cell["source"]).lstrip().startswith("#| export")]
        hits = [cell for cell in exported if self.old in "".join(cell["source"])]
        counts = module.read_text("utf-8").count(self.old), sum("".join(one["source"]).count(self.old) for one in hits)
        if counts != (1, 1):
            raise ValueError(f"{self.name}: the old text occurs {counts[0]} times in {module.relative_to(root)} and "
                             f"{counts[1]} times in the exported cells of {path.name}; it must occur once in each")
        hits[0]["source"] = "".join(hits[0]["source"]).replace(self.old, self.new).splitlines(keepends=True)
        return {module: module.read_text("utf-8").replace(self.old, self.new), path: json.dumps(notebook, indent=1)}


def read_table(path: Path = TABLE) -> dict[str, Mutant]:
    "All mutants by name."
    table = tomllib.loads(path.read_text("utf-8"))
    return {name: Mutant(name, **{**fields, "seen_by": tuple(fields.get("seen_by", ()))})
            for name, fields in table.items()}


def copy_project(folder: Path) -> Path:
    "A copy of the project with all that tests change; large data are linked."
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, target)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    return folder


@contextmanager
def put_in(mutant: Mutant, root: Path):
    "Within the block the copy has the fault."
    kept = {path: path.read_bytes() for path in mutant.files(root)}
    try:
        for path, text in mutant.faulty(root).items():
            path.write_text(text, "utf-8")
        yield
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def failure_of(test: str, root: Path) -> str | None:
    "The first failure of a test in a copy, in one line; None if it is green."
    path, _, words = test.partition(" -k ")
    report = root.with_name("report.txt")
    if path.endswith(".ipynb"):
        code = run_notebook(root / "nbs" / path, root, report, SECONDS)
        if code is None:
            return f"no end after {SECONDS} s"
    else:
        command = [sys.executable, "-m", "pytest", path, "-q", "-x", "-p", "no:cacheprovider", "-k", words]
        with open(report, "w") as file:
            code = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=file,
                                  stderr=file).returncode
    if code == 0:
        return None
    plain = re.sub(r"\x1b\[[0-9;]*m", "", report.read_text("utf-8", "replace"))
    where = re.search(r"Executing Cell #(\d+)", plain)
    errors = re.findall(r"^(?:E +)?([\w.]+(?:Error|Exit|Pickle|Iteration)\b.*)", plain, re.M)
    found = f"{f'cell {where[1]}, ' if where else ''}{errors[-1] if errors else plain.strip()[-100:]}"[:110].strip()
    return found or f"ended with status {code} and printed nothing"          # as after a signal


def outcome(mutant: Mutant, root: Path, green: dict[str, str | None]) -> tuple[str, str]:
    "(\"killed\", by what), (\"SURVIVED\", which tests) or (\"ERROR\", why)."
    for test in mutant.tests(root):
        if test not in green:
            green[test] = failure_of(test, root)
        if green[test]:
            return "ERROR", f"{test} fails without any fault: {green[test]}"
    try:
        with put_in(mutant, root):
            for test in mutant.tests(root):
                if failure := failure_of(test, root):
                    return "killed", f"by {test}: {failure}"
    except ValueError as error:
        return "ERROR", str(error)
    return "SURVIVED", ", ".join(mutant.tests(root))


def run_all(mutants: list[Mutant], workers: int) -> int:
    "Try all mutants; prints a line each and a summary; returns 1 if one survived or could not be tried."
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    found, begun, green, copies = {}, time.perf_counter(), {}, SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(workers) as pool:
        for number in range(workers):
            copies.put(copy_project(Path(folder, str(number), "project")))

        def one(mutant: Mutant) -> None:
            copy = copies.get()
            found[mutant.name] = kind, text = outcome(mutant, copy, green)
            copies.put(copy)
            print(f"{kind:8}  {mutant.name}: {text}", flush=True)

        list(pool.map(one, mutants))
    counts = {kind: sum(one == kind for one, _ in found.values()) for kind in ("killed", "SURVIVED", "ERROR")}
    print(f"\n{len(found)} mutants: {', '.join(f'{count} {kind}' for kind, count in counts.items())}; "
          f"{(time.perf_counter() - begun) / 60:.1f} min")
    return int(counts["killed"] < len(found))


def main() -> None:
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mutants of these names")
    parser.add_argument("--workers", type=int, default=1, help="copies, each with one mutant at a time")
    options, table = parser.parse_args(), read_table()
    if unknown := sorted(set(options.only or ()) - set(table)):
        parser.error(f"no mutants are called {unknown}; there are {list(table)}")
    sys.exit(run_all([table[name] for name in options.only or table], options.workers))


if __name__ == "__main__":
    main()
