"""Give the kept trials today's records, each only if its record agreed with the code before, and that code equals today's but for names.

Usage: python restamp_trials.py CHECKOUT, a checkout of the commit before the names changed, with its trials. A definition counts as renamed only if its syntax tree is
the same but for words, and every word changes in one way within it. Anything else is refused, and nothing is written.
"""
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq

from diffrec.core.artifacts import atomic_path
from diffrec.core.paths import Paths
from diffrec.data.sources import open_dataset
from diffrec.graph_diffusion.presets import FORMS
from diffrec.graph_diffusion.training import GRAPH_DIFFUSION
from diffrec.recommenders.training import EVALUATED_BY, RECOMMENDERS, RankingSettings
from diffrec.studies import provenance
from diffrec.studies.recipe import made_from
from diffrec.studies.trials import _as_json, evaluation_record

REPORTS = Path("outputs/reports")
PROBLEMS, NEW = {}, set()
BEFORE = r'''
import json, sys
from pathlib import Path
from diffrec.core.paths import Paths
from diffrec.data.sources import open_dataset
from diffrec.graph_studies import recipes
from diffrec.graph_studies.settings import SETTINGS
from diffrec.graph_studies.trials import Judging, read_header
asked = {}
entries = recipes.source_hash
recipes.source_hash = lambda definitions: asked.setdefault("last", sorted(f"{one.__module__}:{one.__qualname__}" for one in definitions)) and entries(definitions)
data, known, found = open_dataset("tiktok", Paths.find()), {}, {}
table = {(name, recipe.model): recipe for name, recipes_ in SETTINGS.items() for recipe in recipes_}
for path in sorted(Path("outputs/reports").glob("*/trials/*.parquet")):
    name, seed = path.stem.rsplit("-seed-", 1)
    if name not in known:
        asked.clear()
        known[name] = recipes.making(table.get((path.parent.parent.name, name)) or table["tiktok", name], data, 0), asked["last"]
    header, (expected, definitions) = read_header(path), known[name]
    again = Judging(**{key: value for key, value in header["judged"].items() if key != "code"}).record()
    found[str(path)] = {"agrees": header["made_from"] == {**expected, "seed": int(seed)} and header["judged"] == again, "definitions": definitions}
json.dump(found, sys.stdout)
'''
EVALUATED_BEFORE = ["diffrec.evaluation.protocol:judge_lists", "diffrec.evaluation.protocol:judged_users", "diffrec.evaluation.protocol:seen_matrix",
                    "diffrec.evaluation.ranking:coverage_at_k", "diffrec.evaluation.ranking:top_k"]


def trees(definitions: list, package: Path) -> list:
    "The trees of everything that definitions reach in a package."
    with mock.patch.object(provenance, "_package", lambda: package):
        provenance.read_module.cache_clear()
        found = [[name, *map(provenance._plain, provenance.read_module(module).statements[name])] for module, name in provenance.definitions_behind(definitions)]
        provenance.read_module.cache_clear()
    return found


def words(tree) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*|[^\sA-Za-z_]+", json.dumps(tree))


def renamed(old: list, new: list) -> dict[str, str] | None:
    "The words that differ between two trees; None if they differ otherwise."
    before, after = words(old), words(new)
    if len(before) != len(after):
        return None
    changes = {}
    for a, b in zip(before, after):
        if a != b and not (re.match(r"[A-Za-z_]", a) and re.match(r"[A-Za-z_]", b)) or changes.setdefault(a, b) != b:
            return None
    return {a: b for a, b in changes.items() if a != b} if len(set(changes.values())) == len(changes) else None


def check_renaming(old: list, new: list, where: str) -> dict[str, str]:
    "All changed words; raises `SystemExit` naming a definition that differs in more than words."
    changes, waiting = {}, list(new)
    for tree in sorted(old, key=lambda tree: tree not in new):                     # those that did not change first
        found = [(len(change), one, change) for one in waiting if (change := renamed(tree, one)) is not None]
        if not found:
            near = [one for one in waiting if one[0] == tree[0]]
            PROBLEMS.setdefault(tree[0], (where, tree, near))
            continue
        _, twin, change = min(found, key=lambda one: one[0])
        waiting.remove(twin)
        changes |= change
    if waiting:
        NEW.update(one[0] for one in waiting)
    return changes


def main(checkout: Path) -> None:
    run = subprocess.run([sys.executable, "-c", BEFORE], cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    before, data, seen, all_changes, known, rewritten = json.loads(run.stdout), open_dataset("tiktok", Paths.find()), {}, {}, {}, []
    if stale := [path for path, found in before.items() if not found["agrees"]]:
        raise SystemExit(f"stale before the renaming: {stale}")
    studies = {**{model: (GRAPH_DIFFUSION, recipe) for system in FORMS for model, recipe in GRAPH_DIFFUSION.recipes[f"tiktok-{system}"].items()},
               **{model: (RECOMMENDERS, recipe) for model, recipe in RECOMMENDERS.recipes["tiktok"].items()}}
    here = Path("diffrec").resolve()
    all_changes |= check_renaming(trees(EVALUATED_BEFORE, checkout / "diffrec"), trees(EVALUATED_BY, here), "the evaluation")
    for path, found in before.items():
        path = Path(path)
        name, seed = path.stem.rsplit("-seed-", 1)
        model = re.sub(r"_hub$", "_most_popular", name)
        family, recipe = studies[model]
        if model not in known:
            known[model] = made_from(family, recipe, data, 0)
            now = tuple(sorted(f"{one.__module__}:{one.__qualname__}" for one in set(family.definitions(recipe))))
            key = tuple(found["definitions"]), now
            if key not in seen:
                seen[key] = check_renaming(trees(found["definitions"], checkout / "diffrec"), trees(now, here), model)
                all_changes |= seen[key]
        content = pq.read_table(checkout / path)
        header = json.loads(content.schema.metadata[b"trial"])
        kept = {name: value for name, value in header.pop("judged").items() if name != "code"}
        settings = RankingSettings(**{name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()})
        epochs = json.loads(header["epochs"])
        header = {"made_from": {**known[model], "seed": int(seed)}, "evaluated": evaluation_record(family, settings), "facts": {"coverage": header["coverage"]},
                  "epochs": {"columns": epochs["columns"], "data": epochs["data"]}}
        header["epochs"]["data"] = [[model if column == "model" else value for column, value in zip(epochs["columns"], row)] for row in epochs["data"]]
        rewritten.append((path.with_name(f"{model}-seed-{seed}.parquet"), content.replace_schema_metadata({**content.schema.metadata, b"trial": json.dumps(header).encode()})))
    if PROBLEMS or NEW:
        for name, (where, tree, near) in PROBLEMS.items():
            print("==", name, where, "new candidates:", len(near))
            if near:
                import difflib
                a, b = words(tree), words(near[0])
                for tag, i, j, k, l in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
                    if tag != "equal": print("    ", a[max(0, i - 4):j + 2], "->", b[max(0, k - 4):l + 2])
        raise SystemExit(f"stale: {list(PROBLEMS)}; new or unmatched: {sorted(NEW)}")
    print("words changed in what decides trainings and evaluations:", dict(sorted(all_changes.items())))
    for new, content in rewritten:
        with atomic_path(new) as temporary:
            pq.write_table(content, temporary, compression="zstd")
    print(len(rewritten), "trials of", len(known), "recipes")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
