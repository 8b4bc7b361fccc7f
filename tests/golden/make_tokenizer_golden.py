#!/usr/bin/env python3
"""Makes the golden files of the tokenizers: tiny vocabularies, trained on text
made here, and the tokens that the original engines give for a list of texts.

    pip install tokenizers sentencepiece gguf
    python3 tests/golden/make_tokenizer_golden.py [FOLDER [N_TEXTS [SEED]]]

Without arguments it rewrites tests/golden/tokenizer_*:
    tokenizer_texts.txt     the texts, separated by the line __ggml_vocab_test__
    tokenizer_NAME.gguf     a vocabulary; NAME is a pre-tokenizer, spm or bert
    tokenizer_NAME.out      the ids of each text, one line per text
With FOLDER it makes triples NAME.gguf, NAME.gguf.inp, NAME.gguf.out there, for
    CARAVAN_VOCABS=FOLDER build/tests/test_tokenizer

Engines: `tokenizers` for byte-level BPE and WordPiece, `sentencepiece` for its
own kind. No text here holds a special token; tests/test_tokenizer.c has those.
"""
import io
import os
import random
import sys
import unicodedata

import gguf
import sentencepiece
from tokenizers import (Regex, Tokenizer, models, normalizers, pre_tokenizers as
                        pre, trainers)

SEPARATOR = "__ggml_vocab_test__"
HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 520

# The expressions that the models publish in their tokenizer.json.
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
        r"|\s+(?!\S)|\s+")
LLAMA3 = (SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES)
QWEN2 = LLAMA3.replace("{1,3}", "")
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
CASED1 = rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+"
CASED2 = rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*"
GPT4O = (CASED1 + SHORT + "?|" + CASED2 + SHORT + r"?|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES)
TEKKEN = (CASED1 + "|" + CASED2 + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES)
DEEPSEEK_V3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
               r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
               r"| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES)
DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK_MARKS = (r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f"
                  r"\u3000-\u3002]+").encode().decode("raw_unicode_escape")
# deepseek-llm's letters, as ranges: "A-Z a-z B5 C0-D6 ...".
DEEPSEEK_LETTERS = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377
37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5
13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A
1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D
1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC
1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D
212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE
2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06
FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2
10CC0-10CF2 118A0-118DF 1E900-1E943"""
DEEPSEEK_LETTERS = r"\s?[" + "".join(
    "-".join(chr(int(x, 16)) for x in r.split("-"))
    for r in DEEPSEEK_LETTERS.split()) + "]+"


def split(*expressions):
    return [pre.Split(Regex(x), "isolated") for x in expressions]


def regexes(*expressions):
    return pre.Sequence(split(*expressions) +
                        [pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level():
    return pre.ByteLevel(add_prefix_space=False, use_regex=True)


DIGITS = pre.Digits(individual_digits=True)
PRE = {
    "default": regexes(r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+",
                       "[0-9][0-9][0-9]"),
    "gpt-2": byte_level(),
    "llama-bpe": regexes(LLAMA3),
    "qwen2": regexes(QWEN2),
    "falcon": pre.Sequence([pre.Punctuation("contiguous"), byte_level(),
                            *split("[0-9][0-9][0-9]")]),
    "deepseek-llm": pre.Sequence(
        split(r"[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"\s+$",
              DEEPSEEK_CJK) +
        [DIGITS, pre.ByteLevel(add_prefix_space=False, use_regex=False)]),
    "deepseek-coder": pre.Sequence(
        split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK) +
        [DIGITS, pre.ByteLevel(add_prefix_space=False, use_regex=False)]),
    "deepseek-v3": regexes(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u30ff]+",
                           DEEPSEEK_V3),
    "starcoder": pre.Sequence([DIGITS, byte_level()]),
    "gpt-4o": regexes(GPT4O),
    "tekken": regexes(TEKKEN),
}
IGNORE_MERGES = ("llama-bpe", "tekken")

# ---- texts ----

SENTENCES = """
The caravan left the old town before sunrise and crossed the river by noon.
Nobody had counted the camels; we've only known that there were more than 120.
"Don't you think it's late?" she'd asked. They'll come, I'm sure, they're near.
In 1873, 45 wagons carried 2048 sacks of rice, 31 barrels and 7 clocks.
for (int i = 0; i < n; i++) { total += price[i] * 1.05; }  // with tax
def load(path, limit=100):\n    return [line for line in open(path)][:limit]
Die Führer übernachteten in Gasthöfen; später öffnete sich das große Tor.
Où étaient les châteaux? Près de la forêt, à côté d'un très vieux café.
El niño soñó con montañas, ríos y cigüeñas; mañana será otro día.
Караван вышел из города на рассвете, и никто не считал верблюдов.
Η πόλη ήταν μακριά, ΚΑΙ ο δρόμος δύσκολος.
商队在日出之前离开了古城，中午过了河。我们想去工作1314天。
ひとびとはラクダをかぞえなかった。カタカナもある。
상인들은 해가 뜨기 전에 도시를 떠났다.
कारवाँ सूर्योदय से पहले निकल गया। กองคาราวานออกเดินทาง
Cửa Việt là một nơi đẹp; người ta đến đó mỗi năm.
🚀 (normal) 😶‍🌫️ (joined) ✅ ½ ² Ⅷ ٣ ① ... ------======= ''''''``````""
"""
FIXED = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\t\n", "a", "A",
    "Hello world", " Hello world", "  Hello", "    Hello\n    Hello", " (",
    "\n =", "' era", "'s", "'S'T'RE'VE'M'LL'D", "we'Ve a'lL 'told he's", "!!!!!!",
    "3", "33", "333", "3333", "33333", "333333", "3.3 3..3", "ied 4 ½ months",
    "x" * 60, " " * 60, "Führer", "ﬁ ſ 'ſ K Ω Å ǅ", "e\u0301 n\u0303 \u0301",
    "\u00a0\u2003\u3000", "\u180e", "a\u180eb", "\u200b", "a\u0000b", "\x00",
    "\x01\x1c\x1f\x7f", "a\x0bb\x0cc\x85d\u2028e", "İstanbul IĞDIR",
    "ÀÉÎõü", "각갂 한글", "カ\u3099", "𝔘𝔫𝔦 𐐀𐐨 🦙", "\ufffd", "\ufeffbom",
    "▁", "a▁b", "<0x41>", "[UNK]", "##ing", "<unk>", "</s", "https://a.b/c?d=e#f",
    "int\tmain(){\n\n\treturn 0;\r\n}", "  \n  \n a", "end   ", "end \n",
    "1234567 12,345.67", "snake_case CamelCase XMLHttp", "$100+20%=~|^`",
    "我想在apple工作1314151天～", "「引用」、。！", "𠀀𫠠丽豈",
]
POOLS = ["abcdefzABCZsStTmM", "0123456789", " ", " \t\n\r", "'’`", "'s", "'LL",
         "'re", "!?.,;:-_()[]{}<>=+^~|$#@%&*/\\\"", "éüñçÀÖøſ", "нещоБЙ",
         "កាន់តែ", "我想在工作", "ひらカタ", "한국어", "🚀😶\u200d🌫\ufe0f🦙",
         "½²³Ⅷ٣①", "\u00a0\u2003\u3000\u2028\u200b\u0085", "\x00\x01\x1f\x7f\x0b",
         "ÀάΐΏῆῼ", "ǅʰªº", "\u0301\u0308\u20dd"]


def piece(rng, words):
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(words)
    if kind < 0.34:
        code = rng.randrange(0x110000)
        if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) != "Cn":
            return chr(code)
    pool = rng.choice(POOLS)
    if pool.startswith("'") and rng.random() < 0.8:
        return pool
    if rng.random() < 0.3:
        return rng.choice(pool) * rng.choice([1, 2, 3, 7])
    return "".join(rng.choice(pool) for _ in range(rng.randint(1, 4)))


def make_texts(n, seed):
    rng = random.Random(seed)
    words = SENTENCES.split()
    texts = FIXED + [s for s in SENTENCES.split("\n") if s]
    while len(texts) < n:
        texts.append("".join(piece(rng, words)
                             for _ in range(rng.randint(1, 12))))
    return texts[:n] if n > len(FIXED) else texts


def corpus(seed):
    rng = random.Random(seed)
    lines = [s.replace("\\n", "\n") for s in SENTENCES.split("\n") if s]
    for _ in range(400):
        words = rng.choice(lines).split(" ")
        rng.shuffle(words)
        lines.append(" ".join(words))
    return lines


# ---- files ----

def write_vocab(path, model, tokens, types, **more):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model(model)
    w.add_token_list([t.encode() if isinstance(t, str) else t for t in tokens])
    w.add_token_types(types)
    if "pre" in more:
        w.add_tokenizer_pre(more["pre"])
    if "merges" in more:
        w.add_token_merges(more["merges"])
    if "scores" in more:
        w.add_token_scores(more["scores"])
    for name, value in more.get("ids", {}).items():
        w.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
    for name, value in more.get("flags", {}).items():
        w.add_bool(f"tokenizer.ggml.{name}", value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def make_bpe(name, path, seed):
    """A BPE vocabulary with one control and one user-defined token at its end;
    returns what encodes a text."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = PRE[name]
    t.train_from_iterator(corpus(seed), trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False))
    vocab = t.get_vocab()
    merges = [tuple(m) for m in __import__("json").loads(t.to_str())["model"]["merges"]]
    if name in IGNORE_MERGES:  # words that only a look-up finds
        merges = merges[:-40]
    t.model = models.BPE(vocab=vocab, merges=merges,
                         ignore_merges=name in IGNORE_MERGES)
    tokens = sorted(vocab, key=vocab.get)
    n = len(tokens)
    write_vocab(path, "gpt2", tokens + ["<|im_end|>", "<tool call>"],
                [1] * n + [3, 4], pre=name, merges=[" ".join(m) for m in merges],
                ids={"bos": n, "eos": n})
    return lambda text: t.encode(text, add_special_tokens=False).ids


def make_spm(path, seed):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus(seed)), model_writer=model,
        vocab_size=VOCAB, model_type="bpe", byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2,
        allow_whitespace_only_pieces=True, hard_vocab_limit=False)
    s = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    n = s.get_piece_size()
    types = [2 if s.is_unknown(i) else 3 if s.is_control(i) else
             6 if s.is_byte(i) else 1 for i in range(n)]
    write_vocab(path, "llama", [s.id_to_piece(i) for i in range(n)] + ["<tool>"],
                types + [4], pre="default",
                scores=[s.get_score(i) for i in range(n)] + [0.0],
                ids={"bos": 1, "eos": 2, "unknown": 0})
    return s.encode


def make_bert(path, seed):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]",
                                   max_input_chars_per_word=1000000))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(corpus(seed), trainers.WordPieceTrainer(
        vocab_size=VOCAB + 200, special_tokens=special, show_progress=False))
    vocab = t.get_vocab()
    t.add_special_tokens([])
    plain = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]",
                                       max_input_chars_per_word=1000000))
    plain.normalizer, plain.pre_tokenizer = t.normalizer, t.pre_tokenizer
    tokens = sorted(vocab, key=vocab.get)
    write_vocab(path, "bert",
                [x if x in special else x[2:] if x.startswith("##") else
                 "\u2581" + x for x in tokens],
                [3 if x in special else 1 for x in tokens],
                ids={"cls": 2, "seperator": 3, "unknown": 1})
    return lambda text: plain.encode(text, add_special_tokens=False).ids


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 220
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    texts = make_texts(n, seed)
    joined = "".join(t + "\n" + SEPARATOR + "\n" for t in texts).encode()
    if not folder:
        with open(os.path.join(HERE, "tokenizer_texts.txt"), "wb") as f:
            f.write(joined)
    for name in [*PRE, "spm", "bert"]:
        if folder:
            base = os.path.join(folder, name + ".gguf")
            path, out = base, base + ".out"
            with open(base + ".inp", "wb") as f:
                f.write(joined)
        else:
            base = os.path.join(HERE, "tokenizer_" + name)
            path, out = base + ".gguf", base + ".out"
        encode = (make_spm(path, seed) if name == "spm" else
                  make_bert(path, seed) if name == "bert" else
                  make_bpe(name, path, seed))
        with open(out, "w") as f:
            for t in texts:
                f.write(" ".join(str(i) for i in encode(t)) + "\n")
        print(name, os.path.getsize(path), os.path.getsize(out))


main()
