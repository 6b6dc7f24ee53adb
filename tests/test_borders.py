"""Files that are read: bad content is an error that names the file, claims are checked, a full disk changes nothing."""
import ast
import json
import os
import pickle
import re
import resource
import signal
import struct
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from artifact_kinds import KINDS, Kind, files_of, read_anew, small_dataset
from nbdev.config import get_config
from PIL import Image

from diffrec.core.arrays import create_memmap, read_array, write_array
from diffrec.core.artifacts import (
    file_sha256, read_rows, read_table, write_json, write_rows, write_table, write_weights)
from diffrec.core.pickles import load_pickle
from diffrec.data.dataset_files import read_dataset, save_dataset
from diffrec.data.importers import import_diffmm, import_table
from diffrec.data.reviews import import_amazon_reviews, import_movielens
from diffrec.image_models.encoders import open_picture
from diffrec.image_models.picture_store import read_picture
from diffrec.world.files import write_blocks

torch.set_num_threads(1)
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
package = Path(get_config().lib_path)


# ---- who may open what

OPENERS = {      # what reads or writes a format that claims sizes or runs code -> the one module that calls it
    **dict.fromkeys(["numpy.load", "numpy.save", "numpy.savez", "numpy.savez_compressed", "numpy.memmap",
                     "numpy.fromfile", "numpy.lib.format.open_memmap", "numpy.lib.format.read_array"], "core.arrays"),
    **dict.fromkeys(["pickle.load", "pickle.loads", "pickle.Unpickler", "pandas.read_pickle", "scipy.sparse.load_npz",
                     "joblib.load"], "core.pickles"),
    **dict.fromkeys(["torch.load", "torch.save"], "core.torch_files"),
    **dict.fromkeys(["zipfile.ZipFile", "gzip.open", "gzip.GzipFile", "gzip.decompress", "zlib.decompress"],
                    "data.archives"),
    **dict.fromkeys(["PIL.Image.open"], "image_models.encoders")}


def full_names(tree: ast.AST) -> list[tuple[int, str, bool]]:
    "(line, full name, whether it is called) of every name and attribute of an imported module in a syntax tree."
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                      for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found, called = [], {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts, inner = [inner.attr, *parts], inner.value
        if isinstance(inner, ast.Name) and inner.id in known:
            found.append((node.lineno, ".".join([known[inner.id], *parts]), id(node) in called))
    return found


def calls_past_the_border(module: str, source: str) -> list[str]:
    "Where a module opens what another one is there for."
    return [f"{module}, line {line}: {name} belongs to {OPENERS[name]}"
            for line, name, is_called in full_names(ast.parse(source))
            if OPENERS.get(name, module) != module and (is_called or name != "numpy.memmap")]


def test_files_that_claim_sizes_or_run_code_are_opened_in_one_place_each():
    sources = {".".join(path.relative_to(package).with_suffix("").parts): path.read_text(encoding="utf-8")
               for path in sorted(package.rglob("*.py"))}
    assert [fault for module, source in sources.items() for fault in calls_past_the_border(module, source)] == []
    assert {module for module in OPENERS.values() if module in sources} == set(OPENERS.values())


@pytest.mark.parametrize("source", [
    "import numpy as np\nnp.load(p)", "from numpy import load\nload(p)", "import torch\ntorch.load(p)",
    "from numpy.lib.format import open_memmap as o\no(p)", "import pickle\nf = pickle.loads",
    "import numpy as np\nnp.lib.format.open_memmap(p)", "from PIL import Image\nImage.open(p)"])
def test_a_call_past_the_border_is_seen(source: str):
    assert len(calls_past_the_border("data.splits", source)) == 1


# ---- bad content

def write_pickle(path: Path, seed: int = 0) -> None:
    "A pickled matrix."
    path.write_bytes(pickle.dumps(sp.csr_matrix(np.eye(9) + seed)))


def write_clips(folder: Path, seed: int = 0, shape: tuple[int, int] = (3, 4)) -> None:
    "A data set in the layout of DiffMM."
    folder.mkdir(exist_ok=True)
    for row, name in enumerate(("trnMat", "valMat", "tstMat")):
        matrix = sp.coo_matrix((np.ones(3), ([0, 1, 2], [row, row, row])), shape=shape)
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(matrix))
    np.save(folder / "image_feat.npy", np.full((4, 2), seed, np.float32))


def write_row_table(path: Path, seed: int = 0) -> None:
    "Result rows."
    write_rows(path, [{"run": "r", "dataset": "d", "split": "test", "model": "m", "metric": "recall", "value": seed}])


def write_picture(path: Path, seed: int = 0) -> None:
    "A picture in colour."
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8)).save(path)


def write_zip(path: Path, seed: int = 0) -> None:
    "A release of MovieLens."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ratings.csv", "userId,movieId,rating,timestamp\n" + "".join(
            f"{user},{user % 7},{1 + user % 5},{10 ** 9 + seed}\n" for user in range(99)))


def write_reviews(path: Path, seed: int = 0) -> None:
    "Reviews of toys, one a line."
    frame = pd.DataFrame({"user_id": ["a", "b", "c"], "parent_asin": ["x", "y", "ä"], "rating": 4.,
                          "timestamp": 10 ** 12 + seed, "verified_purchase": True})
    frame.to_json(path, orient="records", lines=True, force_ascii=False)


def write_numbers(path: Path, seed: int = 0) -> None:
    "An array."
    write_array(path, np.arange(99.) + seed)


EVENTS = pd.DataFrame({"user": ["ä", "b", "c"] * 30, "item": np.arange(90), "stars": 4.})
READERS = KINDS | {
    "rows": Kind(write_row_table, read_rows, "results.parquet"),
    "array": Kind(write_numbers, read_array, "a.npy"),
    "memory map": Kind(write_numbers, lambda path: read_array(path, memmap=True), "a.npy"),
    "pickle": Kind(write_pickle, lambda path: load_pickle(path).toarray(), "a.pkl"),
    "csv": Kind(lambda path, seed: EVENTS.to_csv(path, index=False), import_table, "log.csv"),
    "csv in gz": Kind(lambda path, seed: EVENTS.to_csv(path, index=False), import_table, "log.csv.gz"),
    "parquet of others": Kind(lambda path, seed: EVENTS.to_parquet(path), import_table, "log.parquet"),
    "DiffMM": Kind(write_clips, import_diffmm, "clips"),
    "zip": Kind(write_zip, import_movielens, "ml.zip"),
    "lines of JSON": Kind(write_reviews, import_amazon_reviews, "Toys.jsonl"),
    "lines of JSON in gz": Kind(write_reviews, import_amazon_reviews, "Toys.jsonl.gz"),
    "picture": Kind(write_picture, lambda path: np.asarray(open_picture(path, "a")), "a.png"),
    "picture of an index": Kind(write_picture, lambda path: read_picture(path, file_sha256(path)), "b.png"),
}
NOT_READ = {"prior": ["epochs.parquet"]}    # files that lie beside what is read
LONGEST = 2.                                # seconds until the error, of this process


def bad_contents(path: Path, whole: bytes, random: Random) -> dict[str, bytes | None]:
    "What else may lie in the place of a file; None: a folder."
    contents = {"nothing": b"", "noise": random.randbytes(997), "half": whole[:len(whole) // 2], "a folder": None}
    if path.suffix == ".csv":                                      # a table that ends with a row is whole
        contents["half"] = whole[:whole.index(b",", len(whole) // 2)]
    if re.search(r"(json|jsonl|csv|txt)$", path.name):
        contents["UTF-16 without a mark"] = whole.decode("utf-8").encode("utf-16-be")
        contents["a byte of another encoding"] = whole[:9] + b"\xe4\xff" + whole[9:]
    if "json" in path.suffix:
        contents |= {"deep": b"[" * 100_000, "digits": b'{"a": ' + b"9" * 5_000 + b"}", "a list": b"[1, 2]",
                     "a text": b'"text"'}
    return contents


def put(path: Path, content: bytes | None) -> None:
    "Replace a file."
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)


def outcome(kind: Kind, place: Path, path: Path) -> str:
    "What a reader makes of a file that is not what was written: 'error', 'equal', or something worse."
    started = time.process_time()
    try:
        found = read_anew(kind, place)
    except (ValueError, OSError) as error:
        text = str(error)
        if path.name not in text and path.parent.name not in text:
            return f"unnamed: {text[:200]}"
        seconds = time.process_time() - started
        return "error" if seconds < LONGEST else f"after {seconds:.1f} s: {text[:200]}"
    except Exception as error:                                                 # reported below, as a failure
        return f"{type(error).__name__}: {str(error)[:200]} {traceback.format_exc()[-300:]}"
    return found


@pytest.mark.parametrize("name", READERS)
def test_bad_content_is_an_error_that_names_the_file(name: str, tmp_path: Path):
    kind, random = READERS[name], Random(name)
    place = tmp_path / kind.name
    kind.write(place, 0)
    original, found = read_anew(kind, place), Counter()
    for path in [place] if place.is_file() else sorted(place.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or path.name in NOT_READ.get(name, []):
            continue
        whole = path.read_bytes()
        for what, content in bad_contents(path, whole, random).items():
            if content == whole:
                continue
            put(path, content)
            one = outcome(kind, place, path)
            found["error" if one == "error" else f"{path.name}, {what}: {'SILENT' if one == original else one}"] += 1
            path.rmdir() if content is None else path.unlink()
            path.write_bytes(whole)
    print(f"{name}: {found['error']} errors")
    assert not {text for text in found if text != "error"}
    assert found["error"] >= 3 and read_anew(kind, place) == original


# ---- claims

def in_child(work: Callable[[], Any], limit: int, size: int) -> Any:
    "What `work` returns, as JSON, in a process with a limit (of memory beyond what it has, or of a file)."
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            if limit == resource.RLIMIT_AS:
                size += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(limit, (size, size))
            result = json.dumps(work())
        except BaseException:
            result = json.dumps("FAILED " + traceback.format_exc()[-900:])
        os.write(writing, result.encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return json.loads(result)


def npy_of(shape: tuple[int, ...], values: bytes = bytes(64), descr: str = "<f4") -> bytes:
    "An npy file that claims a shape."
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + values


def pickle_that_claims_places() -> bytes:
    "A pickle whose memo claims four billion places."
    return b"\x80\x04K\x01r" + struct.pack("<I", 2 ** 32 - 9) + b"."


def varint(number: int) -> bytes:
    "A whole number as the footer of a parquet file has it."
    number, parts = 2 * number, []
    while number > 127:
        parts, number = [*parts, number & 127 | 128], number >> 7
    return bytes([*parts, number])


def parquet_that_claims_rows(path: Path, rows: int) -> bytes:
    "A table of 7,777 rows whose footer says another number."
    pd.DataFrame({"user": np.zeros(7_777, np.int64)}).to_parquet(path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length:-8].replace(varint(7_777), varint(rows))
    return data[:-8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def of_folder(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    "The reader of a folder, for one of its files."
    return lambda path: read(path.parent)


def claims(home: Path) -> dict[str, tuple[Callable[[Path], Any], Path, bytes]]:
    "Reader, file, content of each claim."
    clips = home / "clips"
    write_clips(clips)
    wide = home / "wide" / "trnMat.pkl"
    write_clips(wide.parent, shape=(2 ** 31 - 1, 4))
    saved = save_dataset(small_dataset(), home / "saved")
    card = {**json.loads((saved / "card.json").read_text()), "n_users": 2 ** 40}
    card.pop("content_sha256")
    write_json(home / "card.json", card, sealed=True)
    with zipfile.ZipFile(home / "same.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("ratings.csv", b"userId,movieId,rating,timestamp\n" + b"1,1,1,1000000000\n" * 1_000_000)
    return {
        "2^50 rows": (read_array, home / "rows.npy", npy_of((2 ** 50, 4))),
        "2^50 mapped rows": (lambda path: read_array(path, memmap=True), home / "map.npy", npy_of((2 ** 50, 4))),
        "2^61 rows without a column": (read_array, home / "empty.npy", npy_of((2 ** 61, 0), b"")),
        "a header of 60,000 bytes": (read_array, home / "header.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 60_000),
        "features of 2^50 items": (of_folder(import_diffmm), clips / "image_feat.npy", npy_of((2 ** 50, 4))),
        "2^31 users": (of_folder(import_diffmm), wide, wide.read_bytes()),
        "2^32 places": (load_pickle, home / "memo.pkl", pickle_that_claims_places()),
        "10^12 rows of parquet": (read_table, home / "rows.parquet",
                                  parquet_that_claims_rows(home / "rows.parquet", 10 ** 12)),
        "2^40 users on a card": (of_folder(read_dataset), saved / "card.json", (home / "card.json").read_bytes()),
        "a million equal rows in some kB": (import_movielens, home / "same.zip", (home / "same.zip").read_bytes()),
        "a picture of 10^10 pixels": (lambda path: open_picture(path, "a"), home / "wide.png", wide_picture(home))}


def wide_picture(home: Path) -> bytes:
    "A picture that claims 100,000 x 100,000 pixels."
    write_picture(home / "small.png")
    data = bytearray((home / "small.png").read_bytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_claims_are_compared_with_the_file_before_memory_is_taken(tmp_path: Path):
    cases = claims(tmp_path)

    def read_all() -> dict[str, str]:
        found = {}
        for what, (read, path, content) in cases.items():
            whole = path.read_bytes() if path.is_file() else None
            path.write_bytes(content)
            started = time.process_time()
            try:
                found[what] = f"SILENT {type(read(path)).__name__}"
            except (ValueError, OSError) as error:
                seconds, text = time.process_time() - started, str(error).replace(str(tmp_path), "")
                is_named = path.name in text and re.search("claims|counts|unpacks|exceeds", text)
                found[what] = "error" if is_named and seconds < LONGEST else f"{seconds:.1f} s: {text}"
            except BaseException as error:
                found[what] = f"{type(error).__name__}: {error}"
            if whole is not None:
                path.write_bytes(whole)
        return found

    assert in_child(read_all, resource.RLIMIT_AS, 2 ** 30) == dict.fromkeys(cases, "error")


# ---- a full disk

LARGE = np.random.default_rng(0).normal(size=(200, 400))
WRITERS = {     # each writes 160 kB or more
    "write_json": lambda path: write_json(path, LARGE),
    "write_table": lambda path: write_table(path, pd.DataFrame(LARGE, columns=[f"c{at}" for at in range(400)])),
    "write_weights": lambda path: write_weights(path, {"w": torch.from_numpy(LARGE)}),
    "write_array": lambda path: write_array(path, LARGE),
    "create_memmap": lambda path: create_memmap(path, LARGE.shape, LARGE.dtype),
    "write_blocks": lambda path: write_blocks(path, iter([{"train": pd.DataFrame(LARGE.T)}]), 1),
    "save_dataset": lambda path: save_dataset(large_dataset(), path)}


def large_dataset():
    "A data set with features of 160 kB."
    return replace(small_dataset(1), features={"image": np.ones((10, 4_000), np.float32)})


def contents_of(top: Path) -> dict[str, bytes | bool]:
    "Bytes of all files, False for folders."
    return {name: (top / name).is_file() and (top / name).read_bytes() for name in files_of(top)}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_error_with_path_and_bytes_and_leaves_the_old_file(name: str, tmp_path: Path):
    path = tmp_path / "kept"
    if name == "save_dataset":
        save_dataset(small_dataset(), path)
    elif name == "write_blocks":
        path.mkdir()
    elif name != "create_memmap":                                            # which makes new files only
        path.write_bytes(b"old")
    before = contents_of(tmp_path)

    def write() -> str:
        try:
            WRITERS[name](path)
        except OSError as error:
            return str(error)
        return "SILENT"

    text = in_child(write, resource.RLIMIT_FSIZE, 100_000)
    assert re.search(r"kept.*\d bytes", text), text
    assert contents_of(tmp_path) == before
    WRITERS[name](path)                                                      # with a place on the disk it is written
