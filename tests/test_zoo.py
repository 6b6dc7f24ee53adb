"""The small models that ship with the project are as good as their cards say, measured on new pictures, and small."""
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffrec.core.artifacts import read_json
from diffrec.world.picture_bank import GENERAL, WORDINGS, make_bank
from diffrec.world.captions import fill_wordings
from diffrec.image_models.clip import load_clip, naming_accuracy
from diffrec.image_models.sd3 import draw_texts
from diffrec.image_models.sd15 import draw_embeddings
from diffrec.image_models.zoo import zoo
from diffrec.image_models.drawing import DrawingSettings, draw_into
from diffrec.image_models.parts import part_hash
from diffrec.image_models.picture_store import PictureStore
from diffrec.image_models.recipes import NEEDS, TINY
from diffrec.image_models.evaluation import (
    evaluate_autoencoder, evaluate_classifier, evaluate_sd3, evaluate_sd15, evaluate_sources, evaluate_texts,
)

shipped = Path(__file__).parent.parent / "data" / "zoo"
cards = {path.parent.name: read_json(path) for path in sorted(shipped.glob("*/card.json"))}


def test_the_zoo_is_small_and_every_part_has_a_card():
    assert set(cards) == {"clip", "classifier", "autoencoder", "sd3", "sd15"}
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) <= 20e6
    for card in cards.values():
        assert card["what"] and card["quality"] and card["training"]["seed"] == 0
        assert card["cpu_seconds"]["training"] > 0
        assert set(card["files"]) and all(len(file["sha256"]) == 64 for file in card["files"].values())
    for path in shipped.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(place in text for place in ('"/home/', '"/work/', '"/root/', '"/tmp/')), path


def test_cards_are_those_of_todays_recipes():
    "Loop, seed, batches, pictures and earlier parts of every card are what a training would note; code is not noted."
    def loop(recipe):
        return json.loads(json.dumps({**asdict(recipe.fit), "batch_size": recipe.batch_size}))

    for part, recipe in TINY.items():
        data, noted = cards[part]["data"], cards[part]["training"]
        assert data["bank"] == {"count": recipe.n_pictures, "seed": 0, "size": 64, "kinds": "training"}
        trained_with = [name for name in NEEDS[part] if name != "classifier"]                 # which only measures
        assert {name: value for name, value in data["parts"].items() if name != "earlier"} == {
            name: part_hash(shipped / name, name) for name in trained_with}, part
        while recipe is not None:
            wanted = {**loop(recipe), "seed": 0}
            assert {name: noted[name] for name in wanted} == wanted, part
            recipe, noted = getattr(recipe, "earlier", None), noted.get("earlier")
        assert noted is None


def test_clip_predicts_attributes_of_held_out_kinds():
    "Zero-shot on pictures of held-out kinds, drawn with a seed that no training and no card used."
    clip, tokenizer = load_clip(shipped / "clip")
    found = naming_accuracy(clip, tokenizer, make_bank(400, 4711, held_out=True))
    for wording, shares in found.items():
        for attribute, share in shares.items():
            noted = cards["clip"]["quality"]["zero_shot"][wording][attribute]
            assert share >= .90 and share == pytest.approx(noted, abs=.03), (wording, attribute)


def test_the_classifier_predicts_attributes_of_held_out_kinds():
    found = evaluate_classifier(zoo("tiny").classifier, 400, 4711)
    assert found["clear"]["all"] >= .98 and found["spoiled"]["all"] >= .95
    assert found["clear"]["all"] == pytest.approx(cards["classifier"]["quality"]["clear"]["all"], abs=.03)


def test_the_autoencoder_reconstructs_held_out_kinds():
    family = zoo("tiny")
    found = evaluate_autoencoder(family.autoencoder, family.classifier, 96, 4711).quality
    assert found["psnr"]["mean"] >= 30
    assert found["followed"]["right"]["all"] >= .95 and found["followed"]["outline_iou"] >= .95
    assert found["psnr"]["mean"] == pytest.approx(cards["autoencoder"]["quality"]["psnr"]["mean"], abs=1.)


def test_the_adapter_follows_pictures():
    family = zoo("tiny")
    clip, _ = load_clip(family.encoder_folder)
    right = evaluate_sd15(family.pipeline("sd15"), clip, family.classifier, 48, 4711).quality["followed"]
    for attribute, bound in {"hue": .95, "background": .95, "pattern": .85, "shape": .80}.items():
        assert right["right"][attribute] >= bound - 3 * (bound * (1 - bound) / 48)**.5, attribute
    assert right["outline_iou"] >= .80

    def no_adapter(pixels, seeds):
        "The same text and seeds with the adapter off."
        return draw_embeddings(family.pipeline("sd15"), torch.zeros(len(pixels), 96), seeds, GENERAL[0], 0.).numpy()

    without = evaluate_sources(no_adapter, family.classifier, 48, 4711).quality["followed"]["right"]
    for attribute in ("hue", "background", "pattern", "shape"):
        assert right["right"][attribute] >= without[attribute] + .3, attribute


def test_sd3_draws_texts():
    "As well as its card says, and its card has all four attributes right in .92 and outlines with an IoU of .85."
    family, noted = zoo("tiny"), cards["sd3"]["quality"]["described"]
    found = evaluate_sd3(family.pipeline("sd3"), family.classifier, 64, 4711).quality["described"]
    for attribute, share in noted["right"].items():
        assert found["right"][attribute] >= share - 3 * (share * (1 - share) / 64)**.5 - .01, attribute
    assert min(found["right"][attribute] for attribute in ("hue", "background", "pattern")) >= .9
    assert found["outline_iou"] >= .85 and noted["outline_iou"] >= .85 and noted["right"]["all"] >= .92

    def general_prompt(texts, seeds):
        "The same seeds with a prompt that names no attribute."
        return draw_texts(family.pipeline("sd3"), [GENERAL[0]] * len(texts), seeds).numpy()

    without = evaluate_texts(general_prompt, family.classifier, 32, 4711).quality["described"]["right"]
    assert without["all"] <= .1
    for attribute in ("hue", "background", "pattern", "shape"):
        assert found["right"][attribute] >= without[attribute] + .25, attribute


def test_a_picture_does_not_depend_on_its_batch_and_its_prompt_counts():
    pipeline, zero = zoo("tiny").pipeline("sd15"), torch.zeros(2, 96)
    texts = ["a plain red heart on a white background", "a plain blue star on a dark background"]

    def draw(texts, seeds):
        return draw_embeddings(pipeline, zero[:len(texts)], seeds, texts, 0., n_steps=4).int()

    together, alone = draw(texts, [3, 4]), draw(texts[1:], [4])
    assert (together[1] - alone[0]).abs().max() <= 1                                  # sums in another order
    assert (draw(texts[:1], [4])[0] - alone[0]).abs().float().mean() > 5


def test_with_shipped_weights_a_picture_is_the_same_in_any_batch_and_after_an_interruption(tmp_path: Path):
    pipeline, quick = zoo("tiny").pipeline("sd15"), DrawingSettings(n_steps=3)
    wanted = torch.nn.functional.normalize(torch.randn(5, 1, 96, generator=torch.Generator().manual_seed(0)), dim=2)
    users = list("abcde")

    def hashes(store):
        return store.index().set_index("user")["sha256"].sort_index()

    whole, other, stopped = (PictureStore(tmp_path / name, {}) for name in ("whole", "other", "stopped"))
    assert draw_into(whole, pipeline, wanted, users, 0, quick, batch_size=2) == 5
    draw_into(other, pipeline, wanted[[4, 2, 1]], ["e", "c", "b"], 0, quick, batch_size=2)      # other batches
    assert hashes(other).to_dict() == hashes(whole)[["b", "c", "e"]].to_dict() and hashes(whole).nunique() == 5

    batches = []
    def stop_at_the_second_batch(pixels):
        batches.append(len(pixels))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return pixels.float().mean((1, 2))

    with pytest.raises(KeyboardInterrupt):
        draw_into(stopped, pipeline, wanted, users, 0, quick, stop_at_the_second_batch, batch_size=2)
    assert len(stopped.index()) == 2
    mean_colour = lambda pixels: pixels.float().mean((1, 2))
    assert draw_into(stopped, pipeline, wanted, users, 0, quick, mean_colour, batch_size=2) == 3
    assert hashes(stopped).to_dict() == hashes(whole).to_dict()


def test_a_picture_is_nearest_to_its_own_description_in_the_shipped_encoder():
    "Through open_clip's own preprocessing and tokenizer, among eight descriptions."
    encoder, bank = zoo("tiny").encoder, make_bank(8, 1, held_out=True)
    texts = fill_wordings(WORDINGS, np.zeros(8, int), bank.attributes).tolist()
    with torch.no_grad():
        prepared = [encoder.preprocess(Image.fromarray(pixels)) for pixels in bank.pixels]
        pictures = encoder.of_signals(torch.stack(prepared))
        described = encoder.of_tokens(encoder.tokenizer(texts))
    similar = torch.nn.functional.normalize(pictures, dim=1) @ torch.nn.functional.normalize(described, dim=1).T
    assert len(set(texts)) == 8 and similar.argmax(1).tolist() == list(range(8))


def test_a_changed_part_is_refused(tmp_path: Path):
    shutil.copytree(shipped, tmp_path / "zoo")
    weights = tmp_path / "zoo" / "classifier" / "classifier.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="classifier.safetensors"):
        zoo(tmp_path / "zoo").classifier


def test_sd3_is_a_plain_pipeline():
    "Called as in diffusers' documentation, with 256 padding tokens, it draws what `draw_texts` draws."
    pipeline, text = zoo("tiny").pipeline("sd3"), "a plain red heart on a white background"
    ours = draw_texts(pipeline, [text], [7], n_steps=4, guidance=4.)[0].int()
    plain = pipeline(prompt=text, generator=torch.Generator().manual_seed(7), num_inference_steps=4, guidance_scale=4.,
                     output_type="np").images[0]
    assert (ours - torch.from_numpy((plain * 255).round()).int()).abs().max() <= 2
