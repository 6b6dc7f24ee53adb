"A CSV of ratings and a folder of pictures, from the import to what a prior is trained on."
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffrec.data.dataset_files import save_dataset
from diffrec.data.ratings import likes
from diffrec.data.reviews import import_flickr_aes, import_rated_pictures
from diffrec.image_models.zoo import zoo
from diffrec.priors.rated_pictures import SplitSettings, open_rated_pictures, prepare_prior_data


@pytest.fixture
def files(tmp_path: Path) -> Path:
    "A folder with 40 pictures in two folders, and stars.csv: 12 users rate 20 of them each, from 1 to 10."
    rng = np.random.default_rng(0)
    names = [f"{'cats' if number % 2 else 'dogs'}/{number:04d}.png" for number in range(40)]
    for name in names:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 16, 3), np.uint8)).save(tmp_path / "pictures" / name)
    rows = [f"{user:03d},{names[item]},{rng.integers(1, 11)}"
            for user in range(12) for item in rng.permutation(40)[:20]]
    (tmp_path / "stars.csv").write_text("\n".join(["user,picture,rating", *rows]) + "\n")
    return tmp_path


def test_imported_pictures_are_opened_split_and_encoded(files: Path):
    dataset = import_rated_pictures(files / "stars.csv", files / "pictures", scale=(1, 10))
    source = open_rated_pictures(save_dataset(dataset, files / "data"), files=files / "pictures")
    assert dataset.users["id"][0] == "000" and len(source.events) == 240
    for item in (0, 17, 39):
        assert source.ids[item] == str(source.pictures[item].relative_to(files / "pictures"))
    table = [line.split(",") for line in (files / "stars.csv").read_text().splitlines()[1:]]
    liked = {(user, name) for user, name, rating in table if int(rating) >= 8}       # 7.75 of 10 is 4 of 5
    users, items = dataset.users["id"].to_numpy(), dataset.items["id"].to_numpy()
    marked = likes(source.events)
    assert set(zip(users[source.events.users[marked]], items[source.events.items[marked]])) == liked
    data = prepare_prior_data(files / "prior", source, SplitSettings(share_unseen=.2), zoo("tiny", "cpu").encoder)
    assert len(data.embeddings) == 40 and {"train", "valid", "test", "unseen"} <= set(data.splits)
    assert source.thumbnails([3, 4]).shape == (2, 64, 64, 3)


def test_ratings_from_1_to_5_are_those_of_flickr_aes(files: Path):
    flat = files / "flat"
    flat.mkdir()
    for name in "abc":
        Image.new("RGB", (8, 8)).save(flat / f"{name}.png")
    (files / "scores.csv").write_text("worker,imagePair,score\nA1,a.png,5\nA1,b.png,2\nB7,c.png,4\n")
    columns = dict(user="worker", picture="imagePair", rating="score")
    ours, flickr = import_rated_pictures(files / "scores.csv", flat, **columns), import_flickr_aes(files / "scores.csv")
    assert (ours.train.pair_keys() == flickr.train.pair_keys()).all() and (ours.train.values == flickr.train.values).all()
    assert ours.items.equals(flickr.items) and ours.users.equals(flickr.users)


def test_a_picture_that_is_removed_after_the_import_is_named(files: Path):
    save_dataset(import_rated_pictures(files / "stars.csv", files / "pictures", scale=(1, 10)), files / "data")
    (files / "pictures" / "cats" / "0003.png").unlink()
    with pytest.raises(FileNotFoundError, match="0003.png is missing"):
        open_rated_pictures(files / "data", files=files / "pictures")
    with pytest.raises(FileNotFoundError, match="1 of 40 pictures are missing in .*: cats/0003.png"):
        import_rated_pictures(files / "stars.csv", files / "pictures", scale=(1, 10))
