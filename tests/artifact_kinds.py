"""Small artefacts of every kind that is kept on the disk: how each is made, and how users read it."""
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from diffrec.core import hashes
from diffrec.core.artifacts import read_json, read_table, read_weights, result_rows, write_json, write_table, write_weights
from diffrec.core.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from diffrec.core.done import done_once, is_done, made_of
from diffrec.core.folders import read_folder
from diffrec.data.dataset_files import read_dataset, save_dataset
from diffrec.data.interactions import Dataset, Interactions
from diffrec.diffusion.whitening import Whitening
from diffrec.image_models.embedding_tables import fit_whitening, open_table, stored_whitening
from diffrec.image_models.encoders import encode_table
from diffrec.image_models.folders import check_part
from diffrec.image_models.picture_store import PictureStore
from diffrec.image_models.zoo import Encoder, Parts, zoo
from diffrec.priors.files import load_prior, save_prior
from diffrec.priors.prior import DiffusionPrior, PriorConfig
from diffrec.priors.rated_pictures import RatedSource, SplitSettings, open_prior_data, prepare_prior_data
from diffrec.priors.samplers import stored_draws
from diffrec.priors.verifier import Verifier, VerifierConfig, VerifierEnsemble, load_verifier, save_verifier
from diffrec.recommenders.training import RECOMMENDERS, load_trained
from diffrec.studies.reports import read_report, write_report
from diffrec.studies.trials import Trial, load_record, read_header, read_trial, train_once, write_trial
from diffrec.world.files import load_images, load_world, save_world
from diffrec.world.world import World, draw_world, world_config

SHIPPED = Path(__file__).parent.parent / "data" / "zoo"


def numbers(seed: int, *shape: int) -> np.ndarray:
    "Normal numbers in float32."
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def digest_of(value: Any) -> str:
    "SHA-256 of all values in something that was read, exactly."
    digest = hashlib.sha256()

    def add(one: Any) -> None:
        digest.update(type(one).__name__.encode() + b"\0")
        if isinstance(one, nn.Module):
            add({name: tensor for name, tensor in one.state_dict().items()})
        elif isinstance(one, torch.Tensor):
            digest.update(f"{one.dtype}{list(one.shape)}".encode())
            digest.update(one.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(one, np.ndarray) and one.dtype != object:
            digest.update(f"{one.dtype}{one.shape}".encode() + np.ascontiguousarray(one).tobytes())
        elif isinstance(one, pd.DataFrame):
            for name in one.columns:
                add((name, np.asarray(one[name])))
        elif isinstance(one, Mapping):
            for key in sorted(one, key=repr):
                add((key, one[key]))
        elif is_dataclass(one):
            add({field.name: getattr(one, field.name) for field in fields(one)})
        elif isinstance(one, (list, tuple, np.ndarray)):
            for part in one:
                add(part)
        else:
            digest.update(repr(one).encode())

    add(value)
    return digest.hexdigest()


def small_dataset(seed: int = 0) -> Dataset:
    "Twelve users and ten items, with values, times, features and texts."
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(120)[:90].reshape(3, 30)
    splits = {name: Interactions(part // 10, part % 10, 12, 10, rng.integers(1, 6, 30).astype(np.float32),
                                 rng.integers(0, 99, 30))
              for name, part in zip(("train", "valid", "test"), pairs)}
    users, items = (pd.DataFrame({"id": [f"{kind}{number}" for number in range(count)]})
                    for kind, count in (("u", 12), ("i", 10)))
    features = {"image": numbers(seed, 10, 3)}
    return Dataset(f"made up {seed}", splits, users, items.assign(text="a thing"), features, {"seed": seed})


@cache
def implicit(seed: int = 0) -> Dataset:
    "The same events without values."
    data = small_dataset(seed)
    splits = {name: replace(part, values=None) for name, part in data.splits.items()}
    return replace(data, splits=splits, name=f"events {seed}")


def small_world(seed: int = 0) -> World:
    "A world with few users and small pictures."
    return draw_world(replace(world_config("toy", seed), n_users=40, n_items=30, image_size=32))


def read_world(folder: Path) -> Any:
    "All of one version of a world."
    return read_folder(folder, lambda world: (read_dataset(world), read_dataset(world / "ratings"), load_world(world),
                                              np.array(load_images(world))))


class Flat(nn.Module):
    "An encoder: a product of the pixels with fixed numbers."

    def __init__(self, seed: int):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(numbers(seed, 48, 4)), requires_grad=False)

    def encode_image(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures @ self.weight


def flat_encoder(seed: int = 0) -> Encoder:
    "An encoder of pictures of 4 x 4 pixels that takes no time."
    def preprocess(picture: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(picture, np.float32).reshape(-1) / 255)
    return Encoder(f"flat {seed}", Flat(seed), preprocess, None, 4)


def pixels(seed: int, count: int = 6) -> np.ndarray:
    "Pictures of 4 x 4 pixels."
    return np.random.default_rng(seed).integers(0, 255, (count, 4, 4, 3), np.uint8)


def save_table(folder: Path, seed: int = 0) -> None:
    "A table of embeddings."
    encode_table(folder, flat_encoder(), [f"p{row}" for row in range(6)], list(pixels(seed)))


def add_pictures(folder: Path, seed: int = 0, users: Sequence[str] = ("ann", "bob")) -> None:
    "A store with a picture of each user; those that it has are not made again."
    store = PictureStore(folder, {"seed": 0})
    new = [place for place, user in enumerate(users) if (user, seed) not in store.done()]
    if new:
        columns = {"embedding": [[.5, float(place)] for place in new]}
        store.add([users[place] for place in new], [seed] * len(new), new, pixels(seed)[new], columns)


def read_store(folder: Path) -> Any:
    "All of a store."
    store = PictureStore(folder)
    index = store.index()
    return store.recipe, index, store.pixels(index) if len(index) else None


def train_popularity(folder: Path, seed: int = 0) -> Path:
    "The folder of a recommender, trained once."
    return train_once(RECOMMENDERS, RECOMMENDERS.recipe("toy", "popularity"), implicit(seed), 0, folder)


def read_training(folder: Path) -> Any:
    "What users read of a training."
    place, data = folder / "popularity" / "seed-0", implicit()
    trained = [load_trained(place, data, selection) for selection in ("valid", "test_best")]
    return trained, load_record(place), read_table(place / "epochs.parquet", sealed=True)


def small_prior(seed: int = 0) -> DiffusionPrior:
    "A prior of five users and eight dimensions."
    torch.manual_seed(seed)
    prior = DiffusionPrior(PriorConfig(5, 8, width=8, n_blocks=1, n_heads=2, n_tokens=2), Whitening(8))
    prior.whitening.fit(torch.from_numpy(numbers(seed, 20, 8)))
    return prior


def train_prior_file(folder: Path, seed: int = 0) -> None:
    "A prior in the folder of its training."
    record = {"recipe": {"model": "prior"}, "seed": 0, "data": {"ratings": str(seed)}}
    home = folder / "prior" / "seed-0"
    home.mkdir(parents=True, exist_ok=True)

    def make(path: Path) -> None:
        save_prior(home / "prior.safetensors", small_prior(seed), {**record, "max_support": 4})
        write_table(path, pd.DataFrame({"epoch": [seed]}))
    done_once(home / "epochs.parquet", record, make, whole=True)


def save_small_verifier(path: Path, seed: int = 0) -> None:
    "A verifier of two members."
    torch.manual_seed(seed)
    members = [Verifier(VerifierConfig(5, 4, 6, hidden=(3,))) for _ in range(2)]
    save_verifier(path, VerifierEnsemble(members, (1.5, .25)), {"seed": seed})


def read_small_verifier(path: Path) -> Any:
    "What a file of a verifier holds."
    ensemble, notes = load_verifier(path)
    return ensemble, notes, list(ensemble.calibration)


def draws(folder: Path, seed: int = 0) -> np.ndarray:
    "Draws that are kept."
    def sampler(users: Sequence[int], n: int, _: int) -> np.ndarray:
        return numbers(seed, len(users), n, 4).astype(np.float64)
    return stored_draws(sampler, folder, {"prior": "abc"})([1, 2], 3, 0)


def read_draws(folder: Path) -> np.ndarray:
    "The kept draws; fails if anything would be drawn."
    def never(*_: Any) -> np.ndarray:
        raise FileNotFoundError(f"{next(iter(folder.iterdir()))}: nothing is kept")
    return stored_draws(never, folder, {"prior": "abc"})([1, 2], 3, 0)


def prepare(folder: Path, seed: int = 0) -> None:
    "What priors are trained on; the pictures are the same for every seed, the split is not."
    data = small_dataset()
    values = np.tile([1, 5, 4, 2, 3], 24).astype(np.float32)
    events = Interactions(np.repeat(np.arange(12), 10), np.tile(np.arange(10), 12), 12, 10, values)
    dataset = replace(data, splits={"train": events})
    source = RatedSource(dataset, events, list(pixels(0, 10)), data.items["id"].tolist())
    prepare_prior_data(folder, source, SplitSettings(ratios=(.5, .2, .3), share_unseen=0., seed=seed), flat_encoder())


def report(folder: Path, seed: int = 0) -> None:
    "Rows and the record of a report."
    row = {"run": folder.name, "dataset": "toy", "split": "test", "model": "m", "metric": "recall", "k": 20,
           "value": .25 + seed, "n": 9}
    write_report(folder, result_rows([row] * 3), {"parameters": {"seed": seed}, "data": {}, "packages": {}})


def trial(path: Path, seed: int = 0) -> None:
    "A trial."
    values = pd.DataFrame({"user": [0, 1, 2], "metric": "recall", "k": 20, "value": [.5, .25, seed]})
    write_trial(path, Trial(pd.DataFrame({"epoch": [0, 1], "loss": [1., .5]}), values, {"seconds": 1.5}),
                {"recipe": {"model": "m"}, "seed": 0}, {"split": "test"})


def step(folder: Path, seed: int = 0) -> None:
    "A step that is done once, with its note."
    done_once(folder / "step.json", {"seed": seed}, lambda path: write_json(path, {"value": seed}))


def read_step(folder: Path, seeds: Sequence[int] = (0, 1)) -> Any:
    "What a step made, if it is done."
    path = folder / "step.json"
    if not any(is_done(path, {"seed": seed}) for seed in seeds):
        raise ValueError(f"{path} is not done")
    return made_of(path), read_json(path)


def copy_part(folder: Path, seed: int = 0) -> None:
    "The classifier that ships."
    shutil.copytree(SHIPPED / "classifier", folder)


def save_checkpoints(folder: Path, seed: int = 0) -> None:
    "A checkpoint."
    state = {"model": {"w": torch.from_numpy(numbers(seed, 3, 4))}, "order": np.arange(5), "loss": [1.5, None]}
    save_checkpoint(folder, seed, state, keep=1)


def save_values(path: Path, seed: int = 0) -> None:
    "A table with numbers, texts and lists."
    write_table(path, pd.DataFrame({"a": [1, 2, seed], "b": ["x", None, "z"], "c": [[1.], [2., 3.], []]}))


def save_weights(path: Path, seed: int = 0) -> None:
    "Two tensors."
    write_weights(path, {"w": torch.from_numpy(numbers(seed, 5, 3)), "n": torch.arange(4)}, {"seed": seed})


def read_embeddings(folder: Path) -> Any:
    "All of a table of embeddings."
    table = open_table(folder)
    return table.ids, np.array(table.embeddings), table.record


def read_part(folder: Path) -> Any:
    "The card of a part, and the model as a zoo loads it."
    return check_part(folder), zoo(Parts("copy", classifier=str(folder), has_cards=True)).classifier


class Kind(NamedTuple):
    "One kind of artefact."
    write: Callable[[Path, int], Any]    # place, version
    read: Callable[[Path], Any]
    name: str = "here"                   # of the place


KINDS = {
    "json": Kind(lambda path, seed: write_json(path, {"a": [1.5, None, "text"], "seed": seed}, sealed=True),
                 lambda path: read_json(path, sealed=True), "value.json"),
    "table": Kind(save_values, lambda path: read_table(path, sealed=True), "rows.parquet"),
    "weights": Kind(save_weights, read_weights, "w.safetensors"),
    "checkpoint": Kind(save_checkpoints,
                       lambda folder: load_checkpoint(latest_checkpoint(folder) or folder / "000001")),
    "trial": Kind(trial, lambda path: (read_trial(path), read_header(path)), "m-seed-0.parquet"),
    "report": Kind(report, read_report, "report"),
    "step and its note": Kind(step, read_step),
    "dataset": Kind(lambda folder, seed: save_dataset(small_dataset(seed), folder), read_dataset),
    "world": Kind(lambda folder, seed: save_world(small_world(seed), folder), read_world),
    "training": Kind(train_popularity, read_training, "models"),
    "picture store": Kind(add_pictures, read_store),
    "embedding table": Kind(save_table, read_embeddings),
    "whitening": Kind(lambda folder, seed: (save_table(folder), fit_whitening(open_table(folder), "whiten")),
                      lambda folder: stored_whitening(open_table(folder), "whiten")),
    "prior": Kind(train_prior_file, lambda folder: load_prior(folder / "prior" / "seed-0" / "prior.safetensors")),
    "verifier": Kind(save_small_verifier, read_small_verifier, "verifier.safetensors"),
    "draws": Kind(draws, read_draws),
    "zoo part": Kind(copy_part, read_part),
    "prior data": Kind(prepare, open_prior_data),
}


def read_anew(kind: Kind, place: Path) -> str:
    "The digest of what a process reads that has read nothing before."
    hashes._CHECKED.clear()
    return digest_of(kind.read(place))


def files_of(top: Path) -> list[str]:
    "All files and folders below a place, without locks and the notes of who holds them."
    return sorted(path.relative_to(top).as_posix() for path in top.rglob("*")
                  if not (path.name.startswith(".") and path.suffix in (".lock", ".writer")))
