#!/usr/bin/env python3
"""Writes a llama-shaped GGUF file with random weights, for measuring speed and memory without a download.

    bench/make_model.py --shape 1.1b --format Q8_0 --out /tmp/1.1b-q8_0.gguf

Needs only numpy. The model is never held in memory: one pool of random, valid blocks is made per tensor format and
copied out again and again from shifting offsets, so that writing runs at the speed of the disk. The same options
and --seed give the same bytes. Weights have the spread of a trained model's (--std), so activations and logits stay
in an ordinary range; the text it generates is noise. Layouts follow ggml's block formats (ggml-common.h), names and
metadata those of llama.cpp's converter. The tokenizer inside is a generated SentencePiece-like vocabulary: control
tokens, 256 byte tokens, then pieces of one to four letters.
"""
import argparse
import itertools
import os
import struct
import time

import numpy as np

# dim, layers, heads, kv heads, ffn, vocab, context, rope base
SHAPES = {
    "tiny": (256, 4, 8, 2, 768, 2048, 1024, 10000.0),
    "1.1b": (2048, 22, 32, 4, 5632, 32000, 2048, 10000.0),
    "3b": (3072, 28, 24, 8, 8192, 32000, 4096, 10000.0),
    "7b": (4096, 32, 32, 32, 11008, 32000, 4096, 10000.0),
    "8b": (4096, 32, 32, 8, 14336, 128256, 8192, 500000.0),
    "13b": (5120, 40, 40, 40, 13824, 32000, 4096, 10000.0),
}

# format: (ggml type, values per block, bytes per block, llama.cpp file type)
FORMATS = {
    "F32": (0, 1, 4, 0),
    "F16": (1, 1, 2, 1),
    "BF16": (30, 1, 2, 32),
    "Q4_0": (2, 32, 18, 2),
    "Q4_1": (3, 32, 20, 3),
    "Q5_0": (6, 32, 22, 8),
    "Q5_1": (7, 32, 24, 9),
    "Q8_0": (8, 32, 34, 7),
    "Q2_K": (10, 256, 84, 10),
    "Q3_K": (11, 256, 110, 11),
    "Q4_K": (12, 256, 144, 14),
    "Q5_K": (13, 256, 176, 16),
    "Q6_K": (14, 256, 210, 18),
}

ALIGN = 32
POOL_BYTES = 24 << 20


# ---- random blocks -------------------------------------------------------------------------------------------------

def _f16_bytes(values):
    return np.ascontiguousarray(values, dtype="<f2").view(np.uint8).reshape(len(values), 2)


def _pack_scales_q3(sc):
    """[n, 16] six-bit scales -> the 12 bytes of a Q3_K block."""
    sc = sc.astype(np.uint8)
    out = np.zeros((len(sc), 12), np.uint8)
    out[:, :8] = (sc[:, :8] & 15) | ((sc[:, 8:] & 15) << 4)
    for j in range(16):
        out[:, 8 + j % 4] |= (sc[:, j] >> 4) << (2 * (j // 4))
    return out


def _pack_scales_q4(sc, mn):
    """[n, 8] six-bit scales and minima -> the 12 bytes of a Q4_K or Q5_K block."""
    sc, mn = sc.astype(np.uint8), mn.astype(np.uint8)
    out = np.zeros((len(sc), 12), np.uint8)
    out[:, 0:4] = (sc[:, :4] & 63) | ((sc[:, 4:] >> 4) << 6)
    out[:, 4:8] = (mn[:, :4] & 63) | ((mn[:, 4:] >> 4) << 6)
    out[:, 8:12] = (sc[:, 4:] & 15) | ((mn[:, 4:] & 15) << 4)
    return out


def random_blocks(fmt, n, std, rng):
    """n random blocks of a format as uint8 [n, block bytes]: values of zero mean and about the given standard deviation.

    Quants are uniform over all their codes; scales vary by a factor of two or so between blocks (and sub-blocks).
    """
    _, block, size, _ = FORMATS[fmt]
    if fmt == "F32":
        return (rng.standard_normal(n, dtype=np.float32) * np.float32(std)).view(np.uint8).reshape(n, 4)
    if fmt == "F16":
        return _f16_bytes(rng.standard_normal(n, dtype=np.float32) * np.float32(std))
    if fmt == "BF16":
        bits = (rng.standard_normal(n, dtype=np.float32) * np.float32(std)).view(np.uint32)
        return np.ascontiguousarray((bits >> 16).astype("<u2")).view(np.uint8).reshape(n, 2)

    out = np.frombuffer(rng.bytes(n * size), np.uint8).reshape(n, size).copy()
    scale = rng.uniform(0.7, 1.3, n).astype(np.float32) * np.float32(std)
    if fmt in ("Q8_0", "Q4_0", "Q5_0", "Q3_K"):  # codes run from -2^(b-1) to 2^(b-1)-1: signs make the mean zero
        scale *= rng.choice(np.float32([-1, 1]), n)
    if fmt == "Q8_0":  # d, 32 x int8; uniform int8 has std 74
        out[:, 0:2] = _f16_bytes(scale / 74)
    elif fmt == "Q4_0":  # d * (q - 8)
        out[:, 0:2] = _f16_bytes(scale / 4.6)
    elif fmt == "Q4_1":  # d * q + m
        out[:, 0:2] = _f16_bytes(scale / 4.6)
        out[:, 2:4] = _f16_bytes(scale / 4.6 * -7.5)
    elif fmt == "Q5_0":  # d * (q - 16)
        out[:, 0:2] = _f16_bytes(scale / 9.2)
    elif fmt == "Q5_1":
        out[:, 0:2] = _f16_bytes(scale / 9.2)
        out[:, 2:4] = _f16_bytes(scale / 9.2 * -15.5)
    elif fmt == "Q2_K":  # d * sc * q - dmin * m, q in 0..3
        sc = rng.integers(6, 16, (n, 16), dtype=np.uint8)
        out[:, 0:16] = sc | (sc << 4)
        out[:, 80:82] = _f16_bytes(scale / (11 * 1.12))
        out[:, 82:84] = _f16_bytes(scale / (11 * 1.12) * 1.5)
    elif fmt == "Q3_K":  # d * (sc - 32) * (q - 4)
        out[:, 96:108] = _pack_scales_q3(rng.integers(32 + 10, 32 + 32, (n, 16), dtype=np.uint8))
        out[:, 108:110] = _f16_bytes(scale / (21 * 2.35))
    elif fmt in ("Q4_K", "Q5_K"):  # d * sc * q - dmin * m
        half, spread = (7.5, 4.6) if fmt == "Q4_K" else (15.5, 9.2)
        sc = rng.integers(24, 64, (n, 8), dtype=np.uint8)
        out[:, 4:16] = _pack_scales_q4(sc, sc)
        out[:, 0:2] = _f16_bytes(scale / (45 * spread))
        out[:, 2:4] = _f16_bytes(scale / (45 * spread) * half)
    elif fmt == "Q6_K":  # d * sc * (q - 32), sc int8
        sc = rng.integers(40, 128, (n, 16), dtype=np.uint8).view(np.int8)
        sc = np.where(rng.random((n, 16)) < 0.5, -sc, sc)
        out[:, 192:208] = sc.view(np.uint8)
        out[:, 208:210] = _f16_bytes(scale / (87 * 18.5))
    return out


# ---- vocabulary ----------------------------------------------------------------------------------------------------

def make_vocab(n):
    """n (piece, score, type): <unk> <s> </s>, 256 bytes, ASCII, then runs of letters, with and without a space before.

    Every longer piece is a shorter one and one more letter, so merging adjacent pieces by score can reach it.
    """
    if n < 512:
        raise SystemExit("the vocabulary needs at least 512 tokens")
    vocab = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    vocab += [("<0x%02X>" % b, 0.0, 6) for b in range(256)]
    space, by_use = "\u2581", "etaoinshrdlcumwfgypbvkjxqz"

    def pieces():
        yield space
        yield from by_use
        yield from (chr(c) for c in range(33, 127) if not chr(c).islower())
        for length in itertools.count(1):
            for letters in itertools.product(by_use, repeat=length):
                word = "".join(letters)
                if length > 1:
                    yield word
                yield space + word

    for rank, piece in enumerate(itertools.islice(pieces(), n - len(vocab))):
        vocab.append((piece, -float(rank), 1))
    return vocab


# ---- GGUF ----------------------------------------------------------------------------------------------------------

def _string(s):
    raw = s.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _pair(key, value):
    """One metadata entry. int -> u32, float -> f32, list of str, float or int -> array of string, f32 or i32."""
    head = _string(key)
    if isinstance(value, bool):
        return head + struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return head + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return head + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return head + struct.pack("<I", 8) + _string(value)
    if isinstance(value[0], str):
        return head + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    kind, letter = (6, "f") if isinstance(value[0], float) else (5, "i")
    return head + struct.pack("<IIQ", 9, kind, len(value)) + struct.pack("<%d%s" % (len(value), letter), *value)


def _bytes_of(shape, fmt):
    _, block, size, _ = FORMATS[fmt]
    if shape[0] % block:
        raise SystemExit("%s holds blocks of %d values, but a row here has %d" % (fmt, block, shape[0]))
    n = 1
    for d in shape:
        n *= d
    return n // block * size


def _pad(n):
    return -n % ALIGN


def write_model(path, shape_name, fmt, out_fmt, seed, std):
    dim, n_layers, n_heads, n_kv, ffn, n_vocab, context, base = SHAPES[shape_name]
    head, kv_dim = dim // n_heads, dim // n_heads * n_kv
    vocab = make_vocab(n_vocab)
    meta = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "random %s %s" % (shape_name, fmt),
        "general.file_type": FORMATS[fmt][3],
        "general.quantization_version": 2,
        "llama.vocab_size": n_vocab,
        "llama.context_length": context,
        "llama.embedding_length": dim,
        "llama.block_count": n_layers,
        "llama.feed_forward_length": ffn,
        "llama.rope.dimension_count": head,
        "llama.rope.freq_base": base,
        "llama.attention.head_count": n_heads,
        "llama.attention.head_count_kv": n_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [v[0] for v in vocab],
        "tokenizer.ggml.scores": [v[1] for v in vocab],
        "tokenizer.ggml.token_type": [v[2] for v in vocab],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    # (name, [row length, rows], format); one-dimensional tensors are norms, all ones
    tensors = [("token_embd.weight", (dim, n_vocab), fmt)]
    for i in range(n_layers):
        tensors += [
            ("blk.%d.attn_norm.weight" % i, (dim,), "F32"),
            ("blk.%d.attn_q.weight" % i, (dim, dim), fmt),
            ("blk.%d.attn_k.weight" % i, (dim, kv_dim), fmt),
            ("blk.%d.attn_v.weight" % i, (dim, kv_dim), fmt),
            ("blk.%d.attn_output.weight" % i, (dim, dim), fmt),
            ("blk.%d.ffn_norm.weight" % i, (dim,), "F32"),
            ("blk.%d.ffn_gate.weight" % i, (dim, ffn), fmt),
            ("blk.%d.ffn_up.weight" % i, (dim, ffn), fmt),
            ("blk.%d.ffn_down.weight" % i, (ffn, dim), fmt),
        ]
    tensors += [("output_norm.weight", (dim,), "F32"), ("output.weight", (dim, n_vocab), out_fmt)]

    head_bytes = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(meta))
    head_bytes += b"".join(_pair(k, v) for k, v in meta.items())
    offset = 0
    for name, shape, f in tensors:
        head_bytes += _string(name) + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape, FORMATS[f][0], offset)
        offset += _bytes_of(shape, f)
        offset += _pad(offset)
    head_bytes += bytes(_pad(len(head_bytes)))

    rng = np.random.default_rng(seed)
    pools = {}
    for f in sorted({f for _, shape, f in tensors if len(shape) == 2}):
        biggest = max(_bytes_of(s, g) for _, s, g in tensors if len(s) == 2 and g == f)
        n_blocks = min(POOL_BYTES, biggest * 2) // FORMATS[f][2]
        pools[f] = random_blocks(f, n_blocks, std, rng).reshape(-1)

    with open(path, "wb", buffering=0) as file:
        _write_all(file, head_bytes)
        for name, shape, f in tensors:
            n_bytes = _bytes_of(shape, f)
            if len(shape) == 1:
                _write_all(file, np.ones(shape, np.float32).tobytes())
            else:
                _write_from_pool(file, pools[f], n_bytes, _bytes_of(shape[:1], f), FORMATS[f][2], rng)
            _write_all(file, bytes(_pad(n_bytes)))
    return os.path.getsize(path)


def _write_from_pool(file, pool, n_bytes, row_bytes, block_bytes, rng):
    """Writes runs of the pool. Run c starts c blocks past a row boundary, so no two rows of a tensor are equal."""
    n_rows = len(pool) // row_bytes
    run = 0
    while n_bytes > 0:
        begin = int(rng.integers(0, max(1, n_rows // 4))) * row_bytes + run * block_bytes % row_bytes
        end = min(begin + n_bytes, begin + (len(pool) - begin) // row_bytes * row_bytes)
        _write_all(file, pool[begin:end])
        n_bytes -= end - begin
        run += 1


def _write_all(file, data):
    view = memoryview(data).cast("B")
    while len(view):
        view = view[file.write(view):]


def main():
    ap = argparse.ArgumentParser(description="Write a llama-shaped GGUF file with random weights.")
    ap.add_argument("--shape", choices=sorted(SHAPES), default="1.1b")
    ap.add_argument("--format", choices=list(FORMATS), default="Q8_0", help="of the embedding and all linears")
    ap.add_argument("--output-format", choices=list(FORMATS),
                    help="of output.weight (default: as llama.cpp's quantiser: Q6_K under a format of 2 to 5 bits)")
    ap.add_argument("--out", required=True, metavar="FILE")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--std", type=float, default=0.02, help="standard deviation of the weights (0.02)")
    args = ap.parse_args()
    out_fmt = args.output_format or ("Q6_K" if args.format[:2] in ("Q2", "Q3", "Q4", "Q5") else args.format)
    begin = time.monotonic()
    size = write_model(args.out, args.shape, args.format, out_fmt, args.seed, args.std)
    took = time.monotonic() - begin
    print("%s: %.1f MB in %.1f s (%.0f MB/s)" % (args.out, size / 1e6, took, size / 1e6 / took))


if __name__ == "__main__":
    main()
