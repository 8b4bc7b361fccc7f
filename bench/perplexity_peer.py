#!/usr/bin/env python3
"""Perplexity of a quantised model here and in llama.cpp: the same files, windows and text.

    bench/perplexity_peer.py F32_MODEL --text models/heldout.txt [--formats Q8_0,Q6_K,...] [--grids 1x1,2x2]

Quantises F32_MODEL with llama.cpp (every matrix in the one format), scores the text with llama.cpp and with
`caravan perplexity`, and prints a table of both and their ratio. Exit code 1 if a ratio is off by more than --limit.

Windows of --context tokens do not overlap, each begins with an empty cache, its first token is given and not scored;
a rest that fills no window is dropped. The tokens are llama.cpp's: caravan's must be as many.

Needs llama-cpp-python (0.3.36 was used) and numpy; not part of `make test`. LLAMA_CPP_LIB_PATH may name a folder with
a libllama of one's own, and PYTHONPATH the bindings.
"""
import argparse
import ctypes
import json
import math
import os
import subprocess
import sys

import numpy as np

try:
    import llama_cpp as lc
except (ImportError, OSError, RuntimeError) as why:
    sys.exit(f"perplexity_peer: needs llama-cpp-python: {why}")

FILE_TYPES = {
    "F32": "LLAMA_FTYPE_ALL_F32",
    "F16": "LLAMA_FTYPE_MOSTLY_F16",
    "BF16": "LLAMA_FTYPE_MOSTLY_BF16",
    "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "Q4_1": "LLAMA_FTYPE_MOSTLY_Q4_1",
    "Q5_0": "LLAMA_FTYPE_MOSTLY_Q5_0",
    "Q5_1": "LLAMA_FTYPE_MOSTLY_Q5_1",
    "Q2_K": "LLAMA_FTYPE_MOSTLY_Q2_K",
    "Q3_K": "LLAMA_FTYPE_MOSTLY_Q3_K_M",
    "Q4_K": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
    "Q5_K": "LLAMA_FTYPE_MOSTLY_Q5_K_M",
    "Q6_K": "LLAMA_FTYPE_MOSTLY_Q6_K",
}


@lc.llama_log_callback
def quiet(level, text, user):
    if os.environ.get("VERBOSE"):
        sys.stderr.write(text.decode(errors="replace"))


def quantise(source, fmt, out, threads):
    p = lc.llama_model_quantize_default_params()
    p.ftype = getattr(lc, FILE_TYPES[fmt])
    p.pure = True
    p.allow_requantize = True
    p.nthread = threads
    if lc.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(p)) != 0:
        raise SystemExit(f"perplexity_peer: llama.cpp cannot quantise {source} to {fmt}")


def tokenise(model, text):
    vocab = lc.llama_model_get_vocab(model)
    cap = len(text) + 16
    tokens = (lc.llama_token * cap)()
    n = lc.llama_tokenize(vocab, text, len(text), tokens, cap, True, False)
    if n < 0:
        raise SystemExit("perplexity_peer: llama.cpp cannot tokenise the text")
    return list(tokens[:n])


def peer_score(path, text, context, threads, kv_f32):
    """Perplexity, tokens of the text, tokens scored, as llama.cpp has them."""
    mp = lc.llama_model_default_params()
    mp.use_extra_bufts = False  # weights stay in the file's format
    model = lc.llama_model_load_from_file(path.encode(), mp)
    if not model:
        raise SystemExit(f"perplexity_peer: llama.cpp cannot load {path}")
    cp = lc.llama_context_default_params()
    cp.n_ctx = cp.n_batch = cp.n_ubatch = context
    cp.n_threads = cp.n_threads_batch = threads
    if kv_f32:
        cp.type_k = cp.type_v = lc.GGML_TYPE_F32
    ctx = lc.llama_init_from_model(model, cp)
    n_vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
    tokens = tokenise(model, text)
    batch = lc.llama_batch_init(context, 0, 1)
    nll, n_scored = 0.0, 0
    for begin in range(0, len(tokens) // context * context, context):
        window = tokens[begin:begin + context]
        lc.llama_memory_clear(lc.llama_get_memory(ctx), True)
        for i, token in enumerate(window):
            batch.token[i] = token
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        batch.n_tokens = context
        if lc.llama_decode(ctx, batch) != 0:
            raise SystemExit("perplexity_peer: llama.cpp's decode failed")
        logits = np.ctypeslib.as_array(lc.llama_get_logits(ctx), shape=(context, n_vocab))[:-1].astype(np.float64)
        top = logits.max(axis=1)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        nll += float((log_sum - logits[np.arange(context - 1), window[1:]]).sum())
        n_scored += context - 1
    lc.llama_batch_free(batch)
    lc.llama_free(ctx)
    lc.llama_model_free(model)
    return math.exp(nll / n_scored), len(tokens), n_scored


def own_score(caravan, path, text_path, context, grid):
    stages, shards = grid.split("x")
    done = subprocess.run([caravan, "perplexity", path, "--file", text_path, "--context", str(context),
                           "--stages", stages, "--shards", shards, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"perplexity_peer: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--text", default="models/heldout.txt")
    p.add_argument("--context", type=int, default=512)
    p.add_argument("--formats", default="Q8_0,Q6_K,Q5_K,Q4_K,Q4_0")
    p.add_argument("--grids", default="1x1,2x2")
    p.add_argument("--folder", help="where the quantised files go (beside the model)")
    p.add_argument("--caravan", default="build/caravan")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--kv-f32", action="store_true", help="llama.cpp's cache in F32 (default F16)")
    p.add_argument("--limit", type=float, default=0.01)
    a = p.parse_args()
    lc.llama_log_set(quiet, None)
    lc.llama_backend_init()
    text = open(a.text, "rb").read()
    stem = os.path.join(a.folder or os.path.dirname(a.model), os.path.basename(a.model).split(".")[0].split("-f32")[0])
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    worst = 0.0
    print(f"{'format':8}{'llama.cpp':>12}" + "".join(f"{g:>12}{'ratio':>10}" for g in a.grids.split(",")) + "  tokens scored")
    for fmt in a.formats.split(","):
        path = a.model if fmt == "F32" else f"{stem}-{fmt.lower()}.gguf"
        if fmt != "F32":
            quantise(a.model, fmt, path, a.threads)
        peer, n_tokens, n_scored = peer_score(path, text, a.context, a.threads, a.kv_f32)
        line = f"{fmt:8}{peer:12.5f}"
        for grid in a.grids.split(","):
            own = own_score(a.caravan, path, a.text, a.context, grid)
            if (own["n_tokens"], own["n_scored"]) != (n_tokens, n_scored):
                raise SystemExit(f"perplexity_peer: {fmt}: {own['n_tokens']} tokens, {own['n_scored']} scored, "
                                 f"llama.cpp has {n_tokens} and {n_scored}")
            ratio = own["perplexity"] / peer
            worst = max(worst, abs(ratio - 1))
            line += f"{own['perplexity']:12.5f}{ratio:10.5f}"
        print(f"{line}  {n_scored}", flush=True)
    print(f"largest deviation {worst:.5f}, limit {a.limit}")
    return 0 if worst <= a.limit else 1


if __name__ == "__main__":
    sys.exit(main())
