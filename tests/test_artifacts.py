"""What is kept on the disk: a changed byte is noticed, a kill at any moment loses nothing, two writers mix nothing."""
import builtins
import io
import os
import re
import signal
import select
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
import torch
from artifact_kinds import KINDS, Kind, files_of, pixels, read_anew

from diffrec.core import artifacts
from diffrec.core.folders import MARKER
from diffrec.core.locks import BusyError
from diffrec.image_models import picture_store
from diffrec.image_models.picture_store import PictureStore

torch.set_num_threads(1)
N_FLIPS = 300
pytestmark = pytest.mark.filterwarnings("ignore:checkpoint .* is damaged", "ignore:.*fork")


def outcome_of_flip(kind: Kind, place: Path, path: Path, random: Random, original: str) -> str:
    "What a reader makes of one changed byte: 'error' that names the file, 'equal' value, or something worse."
    kept = path.read_bytes()
    at = random.randrange(len(kept))
    path.write_bytes(kept[:at] + bytes([kept[at] ^ random.randrange(1, 256)]) + kept[at + 1:])
    try:
        found = read_anew(kind, place)
    except (ValueError, OSError) as error:
        text = str(error)
        is_named = path.name in text or path.parent.name in text
        return "error" if is_named else f"unnamed: {path.name}, byte {at}: {text[:200]}"
    except Exception as error:      # reported below, as a failure
        return f"{type(error).__name__}: {path.name}, byte {at}: {str(error)[:200]}"
    finally:
        path.write_bytes(kept)
    return "equal" if found == original else f"SILENT: {path.name}, byte {at}"


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_byte_is_an_error_that_names_the_file_or_changes_nothing(name: str, tmp_path: Path):
    kind, random = KINDS[name], Random(name)
    place = tmp_path / kind.name
    kind.write(place, 0)
    original = read_anew(kind, place)
    files = [path for path in ([place] if place.is_file() else sorted(place.rglob("*")))
             if path.is_file() and path.stat().st_size and not path.name.endswith(".lock")]
    found = Counter(outcome_of_flip(kind, place, random.choice(files), random, original) for _ in range(N_FLIPS))
    worse = {text: count for text, count in found.items() if text not in ("error", "equal")}
    print(f"{name}: {len(files)} files, {found['error']} errors, {found['equal']} equal, {sum(worse.values())} worse")
    assert not worse
    assert found["error"] >= 20 and read_anew(kind, place) == original


def _writes(name: str, arguments: tuple, keywords: dict) -> bool:
    "Whether a call changes something on the disk; reading does not count."
    if name != "open":
        return True
    mode = arguments[1] if len(arguments) > 1 else keywords.get("mode", "r")
    if isinstance(mode, int):
        return bool(mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return bool(set(mode) & set("wax+"))


def die_at(countdown: int) -> Callable[[], int]:
    "Kill this process before the operation on files with this number, in the middle of it where a library writes."
    count = [0]

    def dying(module: Any, name: str, halves: bool = False) -> None:
        function = getattr(module, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            if not _writes(name, arguments, keywords):
                return function(*arguments, **keywords)
            count[0] += 1
            if count[0] - 1 == countdown:
                if halves:
                    function(*arguments, **keywords)
                    os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)
        setattr(module, name, call)

    for name in ("replace", "rename", "mkdir", "unlink", "rmdir", "open", "fsync", "link", "truncate"):
        dying(os, name)
    dying(builtins, "open")
    io.open = builtins.open
    dying(pq, "write_table", halves=True)
    dying(artifacts, "save_file", halves=True)
    return lambda: count[0]


def in_child(work: Callable[[], Any], countdown: int = -1) -> tuple[bool, int]:
    "Whether a child that does this work was killed, and how many operations it did."
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            counter = die_at(countdown)
            work()
            os.write(writing, str(counter()).encode())
            os._exit(0)
        finally:
            os._exit(7)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = os.read(reading, 99)
    os.close(reading)
    assert status in (0, -signal.SIGKILL), f"the writer failed in a child: {status}"
    return status != 0, int(text or 0)


REPLACED = ("json", "table", "weights", "checkpoint", "trial", "dataset", "world", "picture store", "verifier",
            "prior data")
NOTICED = ("report", "step and its note", "prior")   # replaced in two steps; a kill in between is an error
BEGUN = ("training", "embedding table", "whitening", "draws")      # made once


def state_of(kind: Kind, place: Path) -> str:
    "What a new reader finds: a digest, or 'nothing whole'."
    try:
        return read_anew(kind, place)
    except (FileNotFoundError, ValueError):
        return "nothing whole"


@pytest.mark.parametrize("name", (*REPLACED, *NOTICED, *BEGUN))
def test_a_kill_at_any_operation_leaves_one_whole_version_and_nothing_else(name: str, tmp_path: Path):
    kind, top, before = KINDS[name], tmp_path / "top", tmp_path / "before"
    place, version = top / kind.name, 0 if name in BEGUN else 1
    before.mkdir()
    if version:
        kind.write(before / kind.name, 0)
    old = state_of(kind, before / kind.name)
    shutil.copytree(before, top)
    kind.write(place, version)
    new, clean = read_anew(kind, place), names_of(top)
    assert old != new
    allowed = {old, new} | ({"nothing whole"} if name in NOTICED else set())

    def again(countdown: int) -> tuple[bool, int]:
        shutil.rmtree(top)
        shutil.copytree(before, top)
        return in_child(lambda: kind.write(place, version), countdown)

    _, n_operations = again(-1)
    seen = Counter()
    stride = {"world": 5, "dataset": 2, "prior data": 3}.get(name, 1)      # their files are written one like the other
    for countdown in [*range(0, n_operations - 20, stride), *range(max(0, n_operations - 20), n_operations)]:
        killed, _ = again(countdown)
        found = state_of(kind, place)
        assert killed and found in allowed, f"{name}: killed before operation {countdown} of {n_operations}"
        seen["old" if found == old else "new" if found == new else "noticed"] += 1
        kind.write(place, version)
        assert read_anew(kind, place) == new, f"{name}: the next writer after a kill before operation {countdown}"
        assert names_of(top) == clean, f"{name}: litter of a kill before operation {countdown}"
    print(f"{name}: {n_operations} operations, {dict(seen)}")
    assert seen["old"]


def names_of(top: Path) -> list[str]:
    "All names below a folder, without locks; checkpoints are numbered on."
    return sorted({re.sub(r"(?<=/)\d{6}(?=/|$)", "N", name) for name in files_of(top)})


def paused_child(work: Callable[[], Any], file: str | None = None) -> tuple[int, Callable[[], int]]:
    "A child before its first rename to a file (or to any); the function lets it go on, and returns its exit status."
    (begun, begin), (wait, go) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            replace, names = os.replace, []

            def pausing(source: Any, target: Any) -> None:
                place = Path(target)
                wanted = place.name != MARKER if file is None else (place.name, place.parent.name[:1]) == (file, "h")
                if not names and wanted:
                    names.append(target)
                    os.write(begin, b"x")
                    os.read(wait, 1)
                replace(source, target)
            os.replace = pausing
            work()
            os._exit(0)
        finally:
            os._exit(7)
    assert select.select([begun], [], [], 60.)[0], "the child did not begin to write"

    def finish() -> int:
        os.write(go, b"x")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return child, finish


HELD = ("report", "step and its note", "dataset", "world", "training", "picture store", "embedding table", "prior",
        "prior data")


@pytest.mark.parametrize("name", HELD)
def test_a_second_writer_gets_the_number_of_the_first_and_changes_nothing(name: str, tmp_path: Path):
    kind, place = KINDS[name], tmp_path / KINDS[name].name
    place.mkdir()
    begun = "table.json" if name == "embedding table" else None        # while it is filled
    child, finish = paused_child(lambda: kind.write(place, 0), begun)
    try:
        with mock.patch.object(picture_store, "WAIT", .2), pytest.raises(BusyError) as error:
            kind.write(place, 0)
    finally:
        status = finish()
    text = str(error.value)
    assert status == 0 and re.search(rf"is being written by process {child} \(since 20\d\d-", text), text
    whole = read_anew(kind, place)
    shutil.rmtree(place)
    kind.write(place, 0)
    assert read_anew(kind, place) == whole


@contextmanager
def children(*works: Callable[[], Any]) -> Iterator[list[int]]:
    "Processes that do these works; they are removed from the list as they end, and ended with the block."
    started = []
    for work in works:
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            finally:
                os._exit(7)
        started.append(child)
    try:
        yield started
    finally:
        for child in started:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def drop_ended(started: list[int]) -> None:
    "Remove the processes that ended from a list; one that failed fails the test."
    for child in list(started):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            started.remove(child)
            assert status == 0, f"process {child} failed: {status}"


def test_two_processes_fill_one_store_while_others_read_it(tmp_path: Path):
    store, drawn = PictureStore(tmp_path / "store", {"seed": 0}), pixels(0, 60)

    def fill(user: str) -> None:
        for start in range(0, 60, 5):
            numbers = list(range(start, start + 5))
            PictureStore(store.folder).add([user] * 5, numbers, numbers, drawn[start:start + 5])

    n_reads, sizes = 0, set()
    with children(lambda: fill("ann"), lambda: fill("bob")) as writers:
        while writers or n_reads < 150:
            index = store.index()
            assert len(index) % 5 == 0 and not index.duplicated(["user", "draw"]).any()
            if len(index):
                rows = index.tail(5)
                assert (store.pixels(rows) == drawn[rows["draw"]]).all()
            n_reads, sizes = n_reads + 1, sizes | {len(index)}
            drop_ended(writers)
    index = store.index()
    assert len(index) == 120 and index.groupby("user").size().to_dict() == {"ann": 60, "bob": 60}
    assert len(store.pixels()) == 120 and len(list((store.folder / "pictures").iterdir())) == 120
    print(f"{n_reads} reads saw {len(sizes)} sizes of the store")
    assert len(sizes) > 2


@pytest.mark.parametrize("name", ["dataset", "world", "prior data"])
def test_readers_get_one_version_while_two_processes_replace_it(name: str, tmp_path: Path):
    kind, place, n_writes = KINDS[name], tmp_path / "here", 4 if name == "world" else 12
    versions = set()
    for version in (0, 1):
        kind.write(place, version)
        versions.add(read_anew(kind, place))
    assert len(versions) == 2

    def replace_often(version: int) -> None:
        n_done = 0
        while n_done < n_writes:
            try:
                kind.write(place, version)
                n_done += 1
            except BusyError:
                time.sleep(.01)

    n_reads, found = 0, Counter()
    with children(lambda: replace_often(0), lambda: replace_often(1)) as writers:
        while writers or n_reads < 150:
            found[read_anew(kind, place)] += 1
            n_reads += 1
            drop_ended(writers)
    print(f"{name}: {n_reads} reads, {[found[version] for version in sorted(versions)]} of each version")
    assert set(found) <= versions


def test_only_its_owner_replaces_a_folder(tmp_path: Path):
    for name in ("report", "dataset", "world", "training", "picture store", "embedding table", "draws", "prior data"):
        kind = KINDS[name]
        theirs = tmp_path / name / kind.name
        theirs.mkdir(parents=True)
        (theirs / "1.png").write_text("a photo")
        if name == "training":                                        # in the folder of one training
            theirs = theirs / "popularity" / "seed-0"
            theirs.mkdir(parents=True), (theirs / "1.png").write_text("a photo")
        with pytest.raises(FileExistsError, match="has files and|holds no table of embeddings"):
            kind.write(tmp_path / name / kind.name, 0)
        assert {path.name: path.read_text() for path in theirs.iterdir()} == {"1.png": "a photo"}, name
        file = tmp_path / f"{name} file"
        file.write_text("a note")
        with pytest.raises(OSError, match="is a file|holds no table|Not a directory"):
            kind.write(file, 0)
        assert file.read_text() == "a note"
