"""Stand-ins of published models: the file layout, names and widths are the true ones, the networks are tiny and untrained.

They show that a preset for published weights runs from end to end. Nothing that they give says how good it is.
"""
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from diffrec.core.seeds import generator_for
from diffrec.image_models.clip import build_clip, load_clip, save_clip, tiny_clip_config
from diffrec.image_models.sd15 import fresh_adapter, write_adapter
from diffrec.image_models.zoo import PUBLISHED, encoder_source


def write_sd15(
    models: Path,    # gets one folder for each hub id
    zoo: Path,       # that ships with the project
) -> None:
    "Stable Diffusion 1.5, its IP-Adapter and the encoder of the IP-Adapter, each where a download would have put it."
    parts = PUBLISHED["sd15"]
    pipeline = parts.pipelines["sd15"]
    tokenizer = load_clip(zoo / "clip")[1]
    towers = tiny_clip_config(tokenizer, parts.width, image_size=32, text_layers=1, text_width=32)
    torch.manual_seed(0)
    save_clip(models / encoder_source(parts.encoder), build_clip(towers), tokenizer, towers)
    shutil.copytree(zoo / "sd15", models / pipeline.source, ignore=shutil.ignore_patterns("card.json", "ip_adapter"))
    unet = UNet2DConditionModel.from_pretrained(models / pipeline.source / "unet")
    adapter = fresh_adapter(unet, parts.width, generator_for(0, "adapter"))
    file = models / pipeline.adapter.source / pipeline.adapter.subfolder / pipeline.adapter.weight_name
    file.parent.mkdir(parents=True)
    write_adapter(file, adapter)
