"""Give the kept trials the new hash of their code, each only if its old hash still agrees with the code that stands here.

Run once from the project, in the commit that changes `diffrec.provenance`; the data root must hold TikTok. The old hash is over the code lines of
whole modules with their names, so it is stale after any move; the new one is over definitions. A trial whose old hash disagrees is refused, and nothing is written.
"""
import ast
import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq

from diffrec.artifacts import atomic_path
from diffrec.core import Paths
from diffrec.data.interactions import fingerprint
from diffrec.data.sources import open_dataset
from diffrec.provenance import _package, _path
from diffrec.recipes import FitConfig, Recipe, _turn, build, making
from diffrec.trials import Judging, read_header

TRUNK = ("diffrec.contracts", "diffrec.data.batches", "diffrec.data.graphs", "diffrec.training.fit", "diffrec.evaluation.ranking", "diffrec.evaluation.rating")
DRAWN = ("diffrec.training.alternation", "diffrec.models.controls")


def old_imports(module: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(_path(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = ".".join([*module.split(".")[:-node.level], *filter(None, [node.module])]) if node.level else node.module or ""
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == _package().name and name != module and _path(name) is not None}


def old_hash(modules) -> str:
    known, new = set(), set(modules)
    while new:
        known |= new
        new = {name for module in new for name in old_imports(module)} - known
    digest = hashlib.sha256()
    for module in sorted(known):
        lines = _path(module).read_text(encoding="utf-8").splitlines()
        digest.update("\n".join([module, *(line for line in lines if not line.startswith("#"))]).encode())
    return digest.hexdigest()


def both_makings(recorded: dict, data) -> tuple[str, dict]:
    "The old hash of a training's code, and its making as it is written from now on."
    fields = dict(recorded["recipe"])
    loop = fields.pop("fit")
    recipe = Recipe(**fields, fit=loop and FitConfig(**loop))
    model = build(recipe, data, recorded["seed"])
    turn = _turn(recipe, model, data, recorded["seed"])
    generator = turn and turn.stepper and turn.stepper.model
    parts = [part for part in (model, generator, getattr(generator, "debias", None)) if part is not None]
    modules = [*TRUNK, *{type(part).__module__ for part in parts}, *(DRAWN if turn is not None else ())]
    return old_hash(modules), making(recipe, data, recorded["seed"])


def main() -> None:
    data = open_dataset("tiktok", Paths.find())
    judging_hash, known, written = old_hash(["diffrec.evaluation.protocol", "diffrec.evaluation.ranking"]), {}, {}
    for path in sorted(Path("outputs/reports").glob("*/trials/*.parquet")):
        header = read_header(path)
        made_from, judged = header["made_from"], header["judged"]
        key = json.dumps(made_from["recipe"], sort_keys=True)
        code, fresh = known.setdefault(key, None) or known.update({key: both_makings(made_from, data)}) or known[key]
        if code != made_from["code"] or made_from["data"] != fingerprint(data) or judged["code"] != judging_hash:
            raise SystemExit(f"{path}: its recorded hash is not that of the code here; it is stale and is left as it is")
        record = Judging(**{name: value for name, value in judged.items() if name != "code"}).record()
        written[path] = {**header, "made_from": {**fresh, "seed": made_from["seed"]}, "judged": record}
    for path, header in written.items():
        table = pq.read_table(path)
        table = table.replace_schema_metadata({**table.schema.metadata, b"trial": json.dumps(header).encode()})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    print(f"{len(written)} trials restamped, {len(known)} recipes")


if __name__ == "__main__":
    main()
