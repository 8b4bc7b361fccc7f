#!/usr/bin/env python3
"""Makes the golden files beside it: tiny models as GGUF, and what an independent engine computes with them.

    pip install torch transformers gguf numpy && tests/golden/make_golden.py [--out DIR] [NAME ...]

Every model is built by Hugging Face transformers from a config and seeded random numbers, its weights are rounded to
the format of the file, transformers computes the logits of a prompt in float32 with exactly those rounded weights,
and this script writes the weights as llama.cpp's converter would. README.md describes the files.
"""
import argparse
import math
import os
import sys
import zlib

import gguf
import numpy as np
import torch
import transformers
from gguf.quants import dequantize, quantize
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../bench"))
from make_model import random_blocks  # noqa: E402

Q = gguf.GGMLQuantizationType
N_VOCAB = 84     # neither a multiple of 16 nor of 32
N_PROMPT = 67    # more than two cache blocks of 32 positions
N_NEXT = 8       # greedy tokens after the prompt
CONTEXT = 80

# ---- the models ----------------------------------------------------------------------------------------------------

# kind, dim, layers, heads, kv heads, ffn, then what differs: head (size of a head, when heads * head != dim or the
# architecture always writes it), tied (embedding is the output matrix), rope3 (llama3 frequency scaling), spm
# (SentencePiece vocabulary, else byte-level BPE), files (format of each file written; all share one .logits).
MODELS = {
    "llama-gqa": dict(kind="llama", shape=(96, 2, 6, 2, 32), tied=True, files=["F16"]),
    "llama-head80": dict(kind="llama", shape=(32, 2, 2, 1, 64), head=80, tied=True, files=["F16"]),
    "llama-head96-rope3": dict(kind="llama", shape=(32, 2, 2, 1, 64), head=96, rope3=True, files=["F16"]),
    "llama-dim40": dict(kind="llama", shape=(40, 2, 5, 1, 56), files=["F32"]),
    "llama-shards": dict(kind="llama", shape=(32, 4, 8, 2, 64), head=16, spm=True, files=["F16"]),
    "llama-shards-q4": dict(kind="llama", shape=(64, 4, 8, 2, 128), head=32, files=["Q4_0"]),
    "llama-quants": dict(kind="llama", shape=(64, 2, 4, 2, 96), head=32, files=["mixed"]),
    "llama-kquants": dict(kind="llama", shape=(256, 1, 4, 2, 256), head=16, tied=True, files=["mixed"]),
    "mistral": dict(kind="mistral", shape=(32, 2, 2, 1, 64), spm=True, files=["F32", "F16", "BF16"]),
    "qwen2": dict(kind="qwen2", shape=(32, 2, 4, 2, 64), tied=True, files=["F32", "F16", "BF16"]),
    "qwen3": dict(kind="qwen3", shape=(64, 2, 3, 1, 64), head=32, tied=True, files=["F16"]),
    "gpt2": dict(kind="gpt2", shape=(64, 2, 4, 4, 64), tied=True, files=["F16"]),
}

# Formats of the two models whose tensors differ: (layer, tensor) -> format; "*" for every layer.
MIXED = {
    "llama-quants": {
        (0, "attn_q"): "Q8_0", (0, "attn_k"): "Q4_0", (0, "attn_v"): "Q4_1", (0, "attn_output"): "Q5_0",
        (0, "ffn_gate"): "Q5_1", (0, "ffn_up"): "Q8_0", (0, "ffn_down"): "Q4_0",
        (1, "attn_q"): "Q4_1", (1, "attn_k"): "Q5_0", (1, "attn_v"): "Q5_1", (1, "attn_output"): "Q8_0",
        (1, "ffn_gate"): "Q4_0", (1, "ffn_up"): "Q4_1", (1, "ffn_down"): "Q5_1",
        (None, "token_embd"): "Q5_0", (None, "output"): "Q8_0",
    },
    "llama-kquants": {
        (0, "attn_q"): "Q5_K", (0, "attn_k"): "Q3_K", (0, "attn_v"): "Q6_K", (0, "attn_output"): "Q8_0",
        (0, "ffn_gate"): "Q2_K", (0, "ffn_up"): "Q3_K", (0, "ffn_down"): "Q4_K",
        (None, "token_embd"): "Q6_K",
    },
}

# transformers name -> GGUF name, per kind
LLAMA_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "transformer.wte.weight": "token_embd.weight",
    "transformer.wpe.weight": "position_embd.weight",
    "transformer.ln_f": "output_norm",
    "lm_head.weight": "output.weight",
    "ln_1": "attn_norm", "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}


def seed_of(name):
    return zlib.crc32(name.encode())


def build_model(spec):
    dim, n_layers, n_heads, n_kv, ffn = spec["shape"]
    common = dict(vocab_size=N_VOCAB, hidden_size=dim, num_hidden_layers=n_layers, num_attention_heads=n_heads,
                  num_key_value_heads=n_kv, intermediate_size=ffn, max_position_embeddings=CONTEXT,
                  tie_word_embeddings=spec.get("tied", False), bos_token_id=None, eos_token_id=None,
                  rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    kind = spec["kind"]
    if "head" in spec:
        common["head_dim"] = spec["head"]
    if spec.get("rope3"):
        common["rope_parameters"] = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                     "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common, rms_norm_eps=1e-5, attn_implementation="eager"))
    elif kind == "mistral":
        model = MistralForCausalLM(MistralConfig(**common, rms_norm_eps=1e-5, sliding_window=None,
                                                 attn_implementation="eager"))
    elif kind == "qwen2":
        common["rope_parameters"]["rope_theta"] = 1000000.0
        model = Qwen2ForCausalLM(Qwen2Config(**common, rms_norm_eps=1e-6, attn_implementation="eager"))
    elif kind == "qwen3":
        common["rope_parameters"]["rope_theta"] = 1000000.0
        model = Qwen3ForCausalLM(Qwen3Config(**common, rms_norm_eps=1e-6, attn_implementation="eager"))
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=N_VOCAB, n_positions=CONTEXT, n_embd=dim, n_layer=n_layers,
                                           n_head=n_heads, n_inner=ffn, layer_norm_epsilon=1e-5, bos_token_id=None,
                                           eos_token_id=None, attn_implementation="eager"))
    return model.float().eval()


def random_weight(name, shape, spec, gen):
    """Spread so that attention is far from uniform, logits have a standard deviation near 3, and nothing is neutral."""
    noise = torch.randn(shape, generator=gen)
    if "norm" in name or "ln_" in name:
        if name.endswith("bias"):
            return 0.1 * noise
        return (1.3 if "_norm" in name.split(".")[-2] and "self_attn" in name else 1.0) + 0.2 * noise
    if len(shape) == 1:
        return 0.3 * noise
    if "embed_tokens" in name or "wte" in name:
        return noise * (3 / math.sqrt(shape[1]) if spec.get("tied") else 0.7)
    if "wpe" in name:
        return 0.3 * noise
    fan_in = shape[0] if spec["kind"] == "gpt2" and "lm_head" not in name else shape[1]
    if "lm_head" in name:
        gain = 3.0
    elif "q_proj" in name or "k_proj" in name or "c_attn" in name:
        gain = 1.3
    elif spec.get("tied") and ("o_proj" in name or "down_proj" in name or "c_proj" in name):
        gain = 2.0  # else a tied model mostly repeats its last token
    else:
        gain = 1.0
    return noise * gain / math.sqrt(fan_in)


# ---- weights as a GGUF file holds them -----------------------------------------------------------------------------

def permute(w, n_head):
    """Rows of q or k from transformers' order (halves of a head) to neighbouring pairs, as llama.cpp wants for llama."""
    return w.reshape(n_head, 2, w.shape[0] // n_head // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, n_head):
    return w.reshape(n_head, w.shape[0] // n_head // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


class Place:
    """Where a parameter goes in the file, and how its values are turned to get there and back."""

    def __init__(self, hf_name, spec):
        gpt2 = spec["kind"] == "gpt2"
        parts = hf_name.split(".")
        self.layer, tail = None, hf_name
        if parts[1] in ("layers", "h"):
            self.layer, tail = int(parts[2]), ".".join(parts[3:])
        for old, new in (GPT2_NAMES if gpt2 else LLAMA_NAMES).items():
            if tail.startswith(old):
                tail = new + tail[len(old):]
                break
        else:
            raise KeyError(hf_name)
        self.short = tail.rsplit(".", 1)[0]
        self.name = tail if self.layer is None else "blk.%d.%s" % (self.layer, tail)
        self.transposed = gpt2 and hf_name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        self.heads = 0
        if spec["kind"] in ("llama", "mistral") and self.short in ("attn_q", "attn_k"):
            self.heads = spec["shape"][2 if self.short == "attn_q" else 3]

    def to_file(self, w):
        w = w.T if self.transposed else w
        return np.ascontiguousarray(permute(w, self.heads) if self.heads else w)

    def from_file(self, w):
        w = unpermute(w, self.heads) if self.heads else w
        return np.ascontiguousarray(w.T if self.transposed else w)


def encode(w, fmt, seed):
    """float32 [rows, row length] -> the bytes of the file, uint8 [rows, row bytes], except for F32 and F16."""
    if fmt == "F32":
        return w.astype(np.float32)
    if fmt == "F16":
        return w.astype(np.float16)
    if fmt.endswith("_K"):  # the gguf package cannot quantise to these: random blocks of the same spread
        n = w.size // 256
        return random_blocks(fmt, n, float(w.std()), np.random.default_rng(seed)).reshape(w.shape[0], -1)
    return quantize(w, Q[fmt])


def format_of(name, place, ndim, file_fmt):
    if ndim == 1 or place.short == "position_embd":
        return "F32"
    if file_fmt == "mixed":
        return MIXED[name][(place.layer, place.short)]
    if file_fmt == "Q4_0" and place.short in ("token_embd", "output"):
        return "Q8_0"
    return file_fmt


def make_weights(name, spec, model):
    """Fills the model with the values its files hold. Returns {format: [(GGUF name, data, format of the tensor)]}."""
    gen = torch.Generator().manual_seed(seed_of(name))
    files = {f: [] for f in spec["files"]}
    for hf_name, param in model.named_parameters():
        place = Place(hf_name, spec)
        w = place.to_file(random_weight(hf_name, param.shape, spec, gen).numpy())
        if len(files) > 1 and w.ndim == 2:  # values that F32, F16 and BF16 all hold exactly
            w = dequantize(quantize(w, Q.BF16), Q.BF16)
            w[np.abs(w) < 2.0 ** -14] = 0
        for file_fmt in files:
            fmt = format_of(name, place, w.ndim, file_fmt)
            data = encode(w, fmt, seed_of(name + place.name))
            decoded = data.astype(np.float32) if fmt in ("F32", "F16") else dequantize(data, Q[fmt])
            assert len(files) == 1 or np.array_equal(decoded, w)
            files[file_fmt].append((place.name, data, fmt))
        with torch.no_grad():
            param.copy_(torch.from_numpy(place.from_file(decoded)))
    if spec.get("rope3"):
        for tensors in files.values():
            tensors.append(("rope_freqs.weight", rope3_factors(model.config), "F32"))
    return files


def rope3_factors(config):
    """What llama.cpp's converter stores: the divisor of each rotary frequency, [head size / 2]."""
    p, dim = config.rope_parameters, config.head_dim
    freqs = 1.0 / (p["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    low, high, old = p["low_freq_factor"], p["high_freq_factor"], p["original_max_position_embeddings"]
    factors = []
    for wavelength in (2 * math.pi / freqs).tolist():
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(p["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / p["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


# ---- vocabularies --------------------------------------------------------------------------------------------------

CHARS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-:;"
MERGES = ["_ t", "_ a", "h e", "i n", "r e", "o n", "_t he", "e r", "_ s", "a t", "_ w", "_ o", "e n", "_ c", "i t", "i s",
          "a n", "o r", "e s", "_ b", "e d", "_ f", "_ p", "in g", "_a n", "_ h", "_ m", "_an d", "_t o", "_ l", "a l",
          "a r", "_ d", "_ n", "o u"]  # "_" stands for the space mark
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
          "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def add_tokenizer(writer, spec):
    """84 tokens: specials, single characters, and the results of a few merges. Byte-level BPE, or SentencePiece-like."""
    def pieces(space):
        return [m.replace(" ", "").replace("_", space) for m in MERGES]

    if spec.get("spm"):
        tokens = ["<unk>", "<s>", "</s>", "\u2581"] + list(CHARS) + pieces("\u2581") + ["\u2581y"]
        scores = [0.0] * 3 + [-100.0 - i for i in range(1 + len(CHARS))] + [-float(i) for i in range(len(MERGES) + 1)]
        types = [2, 3, 3] + [1] * (len(tokens) - 3)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(True)
    else:
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        tokens = ["\u0120", "\u010a"] + list(CHARS) + pieces("\u0120") + specials
        qwen = spec["kind"].startswith("qwen")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2" if qwen else "gpt-2" if spec["kind"] == "gpt2" else "llama-bpe")
        writer.add_token_list(tokens)
        writer.add_token_types([1] * (len(tokens) - 3) + [3] * 3)
        writer.add_token_merges([m.replace("_", "\u0120") for m in MERGES])
        writer.add_bos_token_id(N_VOCAB - 3)
        writer.add_eos_token_id(N_VOCAB - 1 if qwen else N_VOCAB - 3)
        writer.add_add_bos_token(spec["kind"] == "llama")
        if qwen:
            writer.add_chat_template(CHATML)
    assert len(tokens) == N_VOCAB, len(tokens)


def special_ids(spec):
    return range(0, 3) if spec.get("spm") else range(N_VOCAB - 3, N_VOCAB)


# ---- files ---------------------------------------------------------------------------------------------------------

FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q4_0": 2, "mixed": 7}


def write_gguf(path, name, spec, config, fmt, tensors):
    dim, n_layers, n_heads, n_kv, ffn = spec["shape"]
    writer = gguf.GGUFWriter(path, "llama" if spec["kind"] == "mistral" else spec["kind"])
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[fmt])
    writer.add_quantization_version(2)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(dim)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(n_heads)
    if spec["kind"] == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(n_kv)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        if "head" in spec:
            writer.add_key_length(spec["head"])
            writer.add_value_length(spec["head"])
        if spec["kind"] in ("llama", "mistral"):
            writer.add_vocab_size(N_VOCAB)
            writer.add_rope_dimension_count(spec.get("head", dim // n_heads))
    add_tokenizer(writer, spec)
    for tensor_name, data, tensor_fmt in tensors:
        raw = None if tensor_fmt in ("F32", "F16") else Q[tensor_fmt]
        writer.add_tensor(tensor_name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def logits_of(model, rows):
    return model(torch.tensor(rows), use_cache=False).logits


def margins(logits):
    top = logits.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def choose_prompt(model, spec, rng, least):
    """A random prompt, and the varied greedy tokens after it, such that no argmax anywhere is closer than `least`.

    Tokens are drawn one by one; one that leaves a narrow argmax at its position is drawn again.
    """
    normal = np.setdiff1d(np.arange(N_VOCAB), special_ids(spec))
    first = 1 if spec.get("spm") else N_VOCAB - 3
    row = [first] if float(margins(logits_of(model, [[first]]))[0, -1]) >= least else [int(rng.choice(normal))]
    for _ in range(500):
        while len(row) < N_PROMPT:
            tries = [row + [int(t)] for t in rng.permutation(normal)[:8]]
            ok = margins(logits_of(model, tries)[:, -1]) >= least
            if ok.any():
                row = tries[int(ok.nonzero()[0])]
            elif len(row) > 1:
                row = row[:-1]
        following = []
        while len(following) < N_NEXT:
            last = logits_of(model, [row + following])[0, -1]
            if float(margins(last)) < least or int(last.argmax()) in special_ids(spec):
                break
            following.append(int(last.argmax()))
        if len(following) == N_NEXT and len(set(following)) > N_NEXT // 2:
            if float(margins(logits_of(model, [row])).min()) >= least:
                return row, following
        row = row[:N_PROMPT - 3]
    raise SystemExit("no prompt with wide margins found")


def make_model_files(name, spec, out):
    model = build_model(spec)
    files = make_weights(name, spec, model)
    rng = np.random.default_rng(seed_of(name))
    quantised = any(f not in ("F32", "F16", "BF16") for f in files)
    row, following = choose_prompt(model, spec, rng, 0.35 if quantised else 0.25)
    logits = logits_of(model, [row])[0]
    for fmt, tensors in files.items():
        write_gguf(os.path.join(out, "%s.%s.gguf" % (name, fmt.lower())), name, spec, model.config, fmt, tensors)
    logits.numpy().astype("<f4").tofile(os.path.join(out, name + ".logits"))
    with torch.no_grad():
        hidden = model.base_model(torch.tensor([row]), use_cache=False).last_hidden_state[0, -1]
    hidden.numpy().astype("<f4").tofile(os.path.join(out, name + ".hidden"))
    for ext, ids in (("tokens", row), ("next", following)):
        with open(os.path.join(out, "%s.%s" % (name, ext)), "w") as f:
            f.write(",".join(map(str, ids)) + "\n")

    with torch.no_grad():
        attn = torch.stack(model(torch.tensor([row]), output_attentions=True).attentions)[..., -1, :]
    exact = logits_of(model.double(), [row])[0]
    print("%-20s logits std %.2f, least margin %.2f, float32 error %.1e, largest attention weight (mean) %.2f, next %s" % (
        name, logits.std(), margins(logits).min(), (logits - exact).abs().max(), attn.amax(-1).mean(), following))


# ---- vectors of the formats ----------------------------------------------------------------------------------------

# format: byte offsets of the f16 scales in a block
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
# zeros, greatest, least subnormal, greatest subnormal, least normal, of both signs, and a few ordinary values
EDGE_F16 = [0x0000, 0x8001, 0x7BFF, 0x03FF, 0xFBFF, 0x8000, 0xBC01, 0x0001, 0x83FF, 0x0400, 0x8400, 0x3C00, 0xBC00, 0x2E66,
            0xAE66, 0x1400, 0x9C01]


def make_vectors(fmt, out):
    rng = np.random.default_rng(seed_of("vectors " + fmt))
    if fmt == "F16":
        bits = rng.integers(0, 0x7C00, 1024, dtype=np.uint16) | (rng.integers(0, 2, 1024, dtype=np.uint16) << 15)
        bits[:len(EDGE_F16)] = EDGE_F16
        raw, values = bits, bits.view(np.float16).astype(np.float32)
    elif fmt == "BF16":
        bits = rng.integers(0, 0x7F80, 1024, dtype=np.uint16) | (rng.integers(0, 2, 1024, dtype=np.uint16) << 15)
        bits[:10] = [0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x807F, 0x0080, 0x7F7F, 0xFF7F, 0x3F80]
        raw, values = bits, dequantize(bits.view(np.uint8), Q.BF16)
    else:
        block, size = gguf.GGML_QUANT_SIZES[Q[fmt]]
        n = 12 if block == 256 else 32
        ordinary = n // 3
        raw = np.frombuffer(rng.bytes(n * size), np.uint8).reshape(n, size).copy()
        raw[0], raw[1] = 0x00, 0xFF  # every code and sub-scale at its least, at its greatest
        for i, offset in enumerate(SCALES[fmt]):
            scales = np.resize(np.roll(np.uint16(EDGE_F16), -3 * i), n)
            scales[:ordinary] = (rng.standard_normal(ordinary) * 0.02).astype(np.float16).view(np.uint16)
            raw[:, offset:offset + 2] = scales.astype("<u2").view(np.uint8).reshape(n, 2)
        values = dequantize(raw, Q[fmt])
    assert np.isfinite(values).all()
    raw.tofile(os.path.join(out, "formats", fmt + ".bin"))
    values.astype("<f4").tofile(os.path.join(out, "formats", fmt + ".f32"))


def main():
    ap = argparse.ArgumentParser(description="Make the golden files.")
    ap.add_argument("--out", default=HERE)
    ap.add_argument("names", nargs="*", metavar="NAME", help="models to make, or 'formats' (default: all)")
    args = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    os.makedirs(os.path.join(args.out, "formats"), exist_ok=True)
    if not args.names or "formats" in args.names:
        for fmt in ["F16", "BF16"] + list(SCALES):
            make_vectors(fmt, args.out)
    for name in args.names or MODELS:
        if name != "formats":
            make_model_files(name, MODELS[name], args.out)


if __name__ == "__main__":
    main()
