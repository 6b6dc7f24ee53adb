"""Stand-ins of published models: the file layout, names and widths are the true ones, the networks are tiny and untrained.

They show that a preset for published weights runs from end to end. Nothing that they give says how good it is.
"""
import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from open_clip import CLIP
from safetensors.torch import save_file

from diffrec.core.seeds import generator_for
from diffrec.image_models.sd15 import fresh_adapter, write_adapter
from diffrec.image_models.zoo import PUBLISHED, encoder_source

TOWERS = {"embed_dim": 1024, "quick_gelu": False,
          "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
          "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}}


def write_encoder(folder: Path) -> None:
    "ViT-H/14's files and width of embeddings, by two towers of one layer."
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(CLIP(**TOWERS).state_dict(), folder / "open_clip_model.safetensors")
    seen = {"mean": [.48145466, .4578275, .40821073], "std": [.26862954, .26130258, .27577711]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TOWERS, "preprocess_cfg": seen}))


def write_sd15(
    models: Path,    # gets one folder for each hub id
    zoo: Path,       # that ships with the project
) -> None:
    "Stable Diffusion 1.5, its IP-Adapter and the encoder of the IP-Adapter, each where a download would have put it."
    parts = PUBLISHED["sd15"]
    pipeline = parts.pipelines["sd15"]
    write_encoder(models / encoder_source(parts.encoder))
    shutil.copytree(zoo / "sd15", models / pipeline.source, ignore=shutil.ignore_patterns("card.json", "ip_adapter"))
    unet = UNet2DConditionModel.from_pretrained(models / pipeline.source / "unet")
    adapter = fresh_adapter(unet, parts.width, generator_for(0, "adapter"))
    file = models / pipeline.adapter.source / pipeline.adapter.subfolder / pipeline.adapter.weight_name
    file.parent.mkdir(parents=True)
    write_adapter(file, adapter)
