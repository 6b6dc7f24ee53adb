"""Stand-ins of published models: the file layout, names and widths are the true ones, the networks are tiny and untrained.

They show that a preset for published weights runs from end to end. Nothing that they give says how good it is.
"""
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models as subwords, pre_tokenizers, processors
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from diffrec.core.artifacts import write_json
from diffrec.core.seeds import generator_for
from diffrec.image_models.clip import build_clip, load_clip, save_clip, tiny_clip_config
from diffrec.image_models.sd15 import fresh_adapter, write_adapter
from diffrec.image_models.zoo import PUBLISHED, Parts, encoder_source


def write_encoder(
    models: Path,    # gets one folder for each hub id
    zoo: Path,       # that ships with the project
    parts: Parts,    # whose encoder it is
) -> None:
    "The encoder of a published zoo, with the width of the true one."
    tokenizer = load_clip(zoo / "clip")[1]
    towers = tiny_clip_config(tokenizer, parts.width, image_size=32, text_layers=1, text_width=32)
    torch.manual_seed(0)
    save_clip(models / encoder_source(parts.encoder), build_clip(towers), tokenizer, towers)


def write_sd15(
    models: Path,    # gets one folder for each hub id
    zoo: Path,       # that ships with the project
) -> None:
    "Stable Diffusion 1.5, its IP-Adapter and the encoder of the IP-Adapter, each where a download would have put it."
    parts = PUBLISHED["sd15"]
    pipeline = parts.pipelines["sd15"]
    write_encoder(models, zoo, parts)
    shutil.copytree(zoo / "sd15", models / pipeline.source, ignore=shutil.ignore_patterns("card.json", "ip_adapter"))
    unet = UNet2DConditionModel.from_pretrained(models / pipeline.source / "unet")
    adapter = fresh_adapter(unet, parts.width, generator_for(0, "adapter"))
    file = models / pipeline.adapter.source / pipeline.adapter.subfolder / pipeline.adapter.weight_name
    file.parent.mkdir(parents=True)
    write_adapter(file, adapter)


def write_sd35(
    models: Path,    # gets one folder for each hub id
    zoo: Path,       # that ships with the project
) -> None:
    "Stable Diffusion 3.5 medium and the encoder that judges its pictures, each where a download would have put it."
    parts = PUBLISHED["sd35-medium"]
    write_encoder(models, zoo, parts)
    folder = models / parts.pipelines["sd35-medium"].source
    write_json(folder / "model_index.json", SD35_INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SD35_SCHEDULER)
    torch.manual_seed(0)
    SD3Transformer2DModel(**SD35_TRANSFORMER).to(torch.bfloat16).save_pretrained(folder / "transformer")
    AutoencoderKL(**SD35_AUTOENCODER).save_pretrained(folder / "vae")
    for part, act in (("", "quick_gelu"), ("_2", "gelu")):
        _write_clip_tokenizer(folder / f"tokenizer{part}", pad="<|endoftext|>" if part == "" else "!")
        config = CLIPTextConfig(**SD35_CLIP, hidden_act=act)
        _save_twice(CLIPTextModelWithProjection(config), folder / f"text_encoder{part}")
    _write_t5_tokenizer(folder / "tokenizer_3")
    _save_twice(T5EncoderModel(T5Config(**SD35_T5)), folder / "text_encoder_3", max_shard_size="60KB")


SD35_INDEX = {      # as published
    "_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.31.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
SD35_SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.29.0.dev0",
                  "num_train_timesteps": 1000, "shift": 3.0}
SD35_TRANSFORMER: dict[str, Any] = dict(     # latents, patches, positions, norms and dual layers are the true ones
    sample_size=128, patch_size=2, in_channels=16, out_channels=16, pos_embed_max_size=384, qk_norm="rms_norm",
    num_layers=2, dual_attention_layers=(0,), attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16,
    joint_attention_dim=64, pooled_projection_dim=32)
SD35_AUTOENCODER: dict[str, Any] = dict(     # four levels and sixteen channels of latents, as the true one
    block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=16, layers_per_block=1, norm_num_groups=8, sample_size=1024, scaling_factor=1.5305, shift_factor=.0609,
    force_upcast=True, use_quant_conv=False, use_post_quant_conv=False)
SD35_CLIP: dict[str, Any] = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, projection_dim=16, vocab_size=514,
    max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1)     # these three as published, true or not
SD35_T5: dict[str, Any] = dict(
    vocab_size=32128, d_model=64, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
    feed_forward_proj="gated-gelu", is_encoder_decoder=True, tie_word_embeddings=False)


def _save_twice(model: nn.Module, folder: Path, **how: Any) -> None:
    "A text encoder in full and in half precision, as the true folder has both."
    model.save_pretrained(folder, **how)
    model.half().save_pretrained(folder, variant="fp16", **how)


def _write_clip_tokenizer(folder: Path, pad: str) -> None:
    "The tokenizer's four files of old; of its vocabulary the letters alone, without merges."
    letters = list(bytes_to_unicode().values())
    ends = ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {token: at for at, token in enumerate([*letters, *(f"{one}</w>" for one in letters), *ends])})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": ends[0], "eos_token": ends[1], "unk_token": ends[1], "pad_token": pad}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": False, "clean_up_tokenization_spaces": True, "do_lower_case": True, "errors": "replace",
        "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **special})


def _write_t5_tokenizer(folder: Path) -> None:
    "The tokenizer's files but `spiece.model`, which its loader does not need beside tokenizer.json; letters alone."
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.), ("</s>", 0.), ("<unk>", 0.), ("\N{LOWER ONE EIGHTH BLOCK}", -2.), *((one, -4.) for one in letters)]
    tokenizer = Tokenizer(subwords.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {"extra_ids": 0, "model_max_length": 512, "tokenizer_class": "T5Tokenizer", **special})
