"""Writes a checkpoint of train_demo.py as GGUF files, and measures what was written.

    python export_gguf.py build/checkpoint.pt --out . --types Q8_0 --name demo   # demo.gguf, demo.json, demo_tokens.json
    python export_gguf.py build/checkpoint.pt --out variants --types F32,F16,Q8_0,Q4_0

Matrices take the named type, norms stay F32.  With one type the file is NAME.gguf,
with several NAME-type.gguf.
"""
import argparse
import json
import os

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as G, LlamaFileType as L
from tokenizers import Tokenizer

from train_demo import BEGIN, END, SPECIAL, Llama, greedy, perplexity

HERE = os.path.dirname(os.path.abspath(__file__))
TYPES = {"F32": (G.F32, L.ALL_F32), "F16": (G.F16, L.MOSTLY_F16), "BF16": (G.BF16, L.MOSTLY_BF16), "Q8_0": (G.Q8_0, L.MOSTLY_Q8_0),
         "Q4_0": (G.Q4_0, L.MOSTLY_Q4_0), "Q4_1": (G.Q4_1, L.MOSTLY_Q4_1), "Q5_0": (G.Q5_0, L.MOSTLY_Q5_0), "Q5_1": (G.Q5_1, L.MOSTLY_Q5_1)}
TEMPLATE = ("{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")
TEXTS = ["What is a violin?", "<|user|>What is a violin?<|end|><|assistant|>A violin is a bowed stringed instrument.<|end|>",
         "<|begin|><|system|>You explain words.<|end|><|user|>Hello!<|end|><|assistant|>", "", " ", "  two  spaces   three ", "tab\tand\nnew\n\nlines\r\n",
         "   leading, trailing   ", "\n \n  \n", "don't can't I'll we've he'd they're it's I'm 'Tis", "DON'T It'S", "1234567890 3.14 1,000,000 x2y3",
         "na\u00efve caf\u00e9 \u00dcber stra\u00dfe", "\u65e5\u672c\u8a9e \u4e2d\u6587 \ud55c\uad6d\uc5b4", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
         "\u0645\u0631\u062d\u0628\u0627 \u0661\u0662\u0663", "\U0001f3bb\U0001f468\u200d\U0001f469\u200d\U0001f467 ok\U0001f44d\U0001f3fd", "e\u0301 combining a\u0308\u0323", "\u00a0nbsp\u2003em\u3000wide",
         "\u00bd \u2167 x\u00b2 \u2460", "<|user|", "<|end|><|end|> <|end|>\n", "<|unknown|>", "a_b-c/d\\e@f#g$h%i^j&k*l(m)n", "....!!!???---", "x" * 40,
         "if (a != b) {\n\treturn a->b[c++];\n}\n", "hello\u0000zero", "\u02bcletter' modifiers\u02b0 'x"]


def write(path, weights, c, tok, kind, name="Caravan demo"):
    ggml, ftype = TYPES[kind]
    w = gguf.GGUFWriter(path, "llama")
    w.add_type("model")
    w.add_name(name)
    w.add_description("A very small model that knows what common English words mean; trained on WordNet 3.0")
    w.add_license("WordNet-3.0")
    w.add_languages(["en"])
    w.add_block_count(c["layers"])
    w.add_context_length(c["context"])
    w.add_embedding_length(c["dim"])
    w.add_feed_forward_length(c["ffn"])
    w.add_head_count(c["heads"])
    w.add_head_count_kv(c["kv_heads"])
    w.add_layer_norm_rms_eps(c["eps"])
    w.add_rope_dimension_count(c["dim"] // c["heads"])
    w.add_rope_freq_base(c["rope_base"])
    w.add_vocab_size(c["vocab"])
    w.add_file_type(ftype)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocab = sorted(tok.get_vocab().items(), key=lambda x: x[1])
    assert [i for _, i in vocab] == list(range(c["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in json.loads(tok.to_str())["model"]["merges"]]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list([t for t, _ in vocab])
    w.add_token_types([gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t, _ in vocab])
    w.add_token_merges(merges)
    w.add_bos_token_id(BEGIN)
    w.add_eos_token_id(END)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_chat_template(TEMPLATE)
    read_back = {}
    for n, t in weights.items():
        a = t.detach().float().numpy()
        k = G.F32 if a.ndim == 1 else ggml
        q = gguf.quants.quantize(a, k)
        w.add_tensor(n, q, raw_dtype=k)
        read_back[n] = torch.from_numpy(np.array(gguf.quants.dequantize(q, k), dtype=np.float32)).view(t.shape)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return read_back


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("checkpoint")
    ap.add_argument("--out", default=HERE)
    ap.add_argument("--types", default="Q8_0", help="comma-separated: " + ",".join(TYPES))
    ap.add_argument("--name", default="demo")
    ap.add_argument("--ask", help="a file of questions, one a line: prints the greedy answers of the first type written")
    o = ap.parse_args()
    torch.set_num_threads(1)
    ck = torch.load(o.checkpoint, weights_only=False, map_location="cpu")
    tok = Tokenizer.from_file(os.path.join(os.path.dirname(os.path.abspath(o.checkpoint)), "tokenizer.json"))
    os.makedirs(o.out, exist_ok=True)
    kinds = o.types.split(",")
    for kind in kinds:
        stem = os.path.join(o.out, o.name if len(kinds) == 1 else f"{o.name}-{kind.lower()}")
        back = write(stem + ".gguf", ck["model"], ck["config"], tok, kind)
        model = Llama(ck["config"]).eval()
        model.load_state_dict(back)
        with open(os.path.join(HERE, "heldout.txt"), encoding="utf-8", newline="") as f:
            ppl, n = perplexity(model, tok.encode(f.read(), add_special_tokens=False).ids)
        report = dict(perplexity=round(ppl, 5), context=512, n_scored=n, params=sum(p.numel() for p in model.parameters()), type=kind, steps=ck["step"])
        print(stem + ".gguf", os.path.getsize(stem + ".gguf"), json.dumps(report), flush=True)
        with open(stem + ".json", "w") as f:
            f.write(json.dumps(report) + "\n")
        if kind == kinds[0]:
            with open(os.path.join(o.out, o.name + "_tokens.json"), "w") as f:
                json.dump([dict(text=t, ids=tok.encode(t).ids) for t in TEXTS], f, indent=0)
                f.write("\n")
            if o.ask:
                for line in open(o.ask):
                    print(line.strip(), "->", greedy(model, tok, line.strip()), flush=True)


if __name__ == "__main__":
    main()
