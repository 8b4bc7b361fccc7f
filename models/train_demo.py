"""Trains the demo model: a small llama on questions about words, with PyTorch on a CPU.

    torchrun --nproc-per-node 2 train_demo.py --out build --steps 4000

One process per core, each with a share of the batch: gradients are summed once per
step, which suffers much less than threads do when the cores have other work as well.
A checkpoint (weights, tokenizer, optimiser state) is written every --save steps;
--resume goes on from it.  The learning rate is constant up to --decay-from and
falls linearly to nothing at --steps, so a run may be stretched or ended early;
a file OUT/plan with the two numbers changes them while it runs.
"""
import argparse
import json
import math
import os
import random
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import Facts

SPECIAL = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
BEGIN, END, USER, ASSISTANT, SYSTEM = range(5)
CONFIG = dict(vocab=8192, dim=256, ffn=768, layers=8, heads=8, kv_heads=4, context=1024, rope_base=10000.0, eps=1e-5)


class Norm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rope(x, cos, sin):
    """Rotates interleaved pairs (2i, 2i+1), llama.cpp's "norm" order: q and k rows need no permutation on export."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, self.h, self.kv, self.hd = c["dim"], c["heads"], c["kv_heads"], c["dim"] // c["heads"]
        self.attn_norm, self.ffn_norm = Norm(d, c["eps"]), Norm(d, c["eps"])
        self.attn_q = nn.Linear(d, d, bias=False)
        self.attn_k = nn.Linear(d, self.kv * self.hd, bias=False)
        self.attn_v = nn.Linear(d, self.kv * self.hd, bias=False)
        self.attn_output = nn.Linear(d, d, bias=False)
        self.ffn_gate = nn.Linear(d, c["ffn"], bias=False)
        self.ffn_up = nn.Linear(d, c["ffn"], bias=False)
        self.ffn_down = nn.Linear(c["ffn"], d, bias=False)

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        y = self.attn_norm(x)
        w = torch.cat((self.attn_q.weight, self.attn_k.weight, self.attn_v.weight))
        q, k, v = F.linear(y, w).split((D, self.kv * self.hd, self.kv * self.hd), -1)
        q = rope(q.view(B, T, self.h, self.hd).transpose(1, 2), cos, sin)
        k = rope(k.view(B, T, self.kv, self.hd).transpose(1, 2), cos, sin)
        v = v.view(B, T, self.kv, self.hd).transpose(1, 2)
        n = self.h // self.kv
        k, v = k.repeat_interleave(n, 1), v.repeat_interleave(n, 1)
        if self.training and T <= 256:      # on a CPU the plain formula has the faster backward pass at short lengths
            mask = torch.full((T, T), float("-inf"), dtype=v.dtype).triu(1).expand(B * self.h, T, T)
            s = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=self.hd ** -0.5)
            y = torch.softmax(s, -1, dtype=s.dtype).bmm(v.flatten(0, 1)).view(B, self.h, T, self.hd)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(y.transpose(1, 2).reshape(B, T, D))
        y = self.ffn_norm(x)
        g, u = F.linear(y, torch.cat((self.ffn_gate.weight, self.ffn_up.weight))).chunk(2, -1)
        return x + self.ffn_down(F.silu(g) * u)


class Llama(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        self.c = c
        self.compiled = self.hidden
        self.token_embd = nn.Embedding(c["vocab"], c["dim"])
        self.blk = nn.ModuleList(Block(c) for _ in range(c["layers"]))
        self.output_norm = Norm(c["dim"], c["eps"])
        hd = c["dim"] // c["heads"]
        f = c["rope_base"] ** (-torch.arange(0, hd, 2).float() / hd)
        a = torch.outer(torch.arange(c["context"]).float(), f)
        self.register_buffer("cos", a.cos(), persistent=False)
        self.register_buffer("sin", a.sin(), persistent=False)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        for n, p in self.blk.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5 * (0.3 if "output" in n or "down" in n else 1.0))

    def hidden(self, ids):
        x = self.token_embd(ids)
        for b in self.blk:
            x = b(x, self.cos[:ids.shape[1]], self.sin[:ids.shape[1]])
        return self.output_norm(x)

    def forward(self, ids):
        return F.linear(self.hidden(ids), self.token_embd.weight)

    def loss(self, ids, targets):
        """targets: -1 where nothing is scored; the output matrix only meets the rest."""
        h = (self.compiled if ids.shape[1] == 128 else self.hidden)(ids).flatten(0, 1)
        t = targets.flatten()
        keep = (t >= 0).nonzero().squeeze(1)
        return F.cross_entropy(F.linear(h[keep], self.token_embd.weight).float(), t[keep])


def orthogonal(g):
    """Newton-Schulz iteration on a batch of matrices: the nearest (semi-)orthogonal ones, roughly."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        world = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if world > 1 else 0
        for g in self.param_groups:
            shapes = {}
            for p in g["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, ps in shapes.items():
                for p in ps:
                    st = self.state[p]
                    if "m" not in st:
                        st["m"] = torch.zeros_like(p)
                    st["m"].lerp_(p.grad, 1 - g["momentum"])
                u = torch.zeros(len(ps), *shape)
                mine = range(rank, len(ps), world)      # each process orthogonalises its share
                u[mine.start::world] = orthogonal(torch.stack([ps[i].grad.lerp(self.state[ps[i]]["m"], g["momentum"]) for i in mine]))
                if world > 1:
                    dist.all_reduce(u)
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for p, d in zip(ps, u):
                    p.add_(d, alpha=-g["lr"] * scale)


def make_tokenizer(facts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)   # GPT-2's expression
    tok.decoder = decoders.ByteLevel()
    text = []
    for e in range(3):
        chats, lines = facts.epoch(-1 - e, "", "", "", "\n")
        text += [q for q, _ in chats] + [a for _, a in chats] + lines
    trainer = trainers.BpeTrainer(vocab_size=CONFIG["vocab"], special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(text, trainer)
    assert tok.get_vocab_size() == CONFIG["vocab"]
    return tok


SYSTEMS = ["You are a helpful assistant.", "You are a dictionary.", "You answer briefly.", "You explain words."]


class Windows:
    """An endless stream of (tokens, targets) windows, alternating over epochs."""

    def __init__(self, facts, tok, seed):
        self.facts, self.tok, self.seed, self.epoch = facts, tok, seed, 0
        self.rng = random.Random(seed)
        self.chats, self.stream = [], []

    def refill(self):
        self.epoch += 1
        chats, lines = self.facts.epoch(self.seed * 100003 + self.epoch)
        q = self.tok.encode_batch_fast([c[0] for c in chats])
        a = self.tok.encode_batch_fast([c[1] for c in chats])
        new = [(x.ids, y.ids) for x, y in zip(q, a)]
        self.chats = new[::-1] + self.chats
        self.stream += self.tok.encode("\n".join(lines) + "\n").ids

    def window(self, T):
        if len(self.chats) < T or len(self.stream) < T + 1:
            self.refill()
        if self.rng.random() < 0.13:
            w, self.stream = self.stream[:T + 1], self.stream[T:]
            return w[:-1], w[1:]
        ids, mark = [], []
        r = self.rng.random()
        if r < 0.3:
            ids, mark = [BEGIN], [0]
        if r < 0.1 or r > 0.95:
            s = self.tok.encode(f"<|system|>{self.rng.choice(SYSTEMS)}<|end|>").ids
            ids, mark = ids + s, mark + [0] * len(s)
        while True:
            q, a = self.chats[-1]
            if len(ids) + len(q) + len(a) > T + 1:
                break
            self.chats.pop()
            ids += q + a
            mark += [0] * len(q) + [1] * len(a)
        pad = T + 1 - len(ids)
        ids, mark = ids + [END] * pad, mark + [0] * pad
        return ids[:-1], [t if m else -1 for t, m in zip(ids[1:], mark[1:])]

    def batch(self, B, T):
        w = [self.window(T) for _ in range(B)]
        return torch.tensor([x for x, _ in w]), torch.tensor([y for _, y in w])


@torch.no_grad()
def greedy(model, tok, question, n=60):
    ids = tok.encode(f"<|user|>{question}<|end|><|assistant|>").ids
    start = len(ids)
    for _ in range(n):
        i = int(model(torch.tensor([ids]))[0, -1].argmax())
        if i == END:
            break
        ids.append(i)
    return tok.decode(ids[start:], skip_special_tokens=False)


@torch.no_grad()
def perplexity(model, ids, window=512):
    """Whole windows of 512 tokens that do not overlap; the first token of each is not scored."""
    total, n = 0.0, 0
    for at in range(0, len(ids) - window + 1, window):
        w = torch.tensor([ids[at:at + window]])
        lp = F.log_softmax(model(w)[0].float(), -1)[:-1].gather(1, w[0, 1:, None])
        total -= lp.double().sum().item()
        n += lp.numel()
    return math.exp(total / n), n


TASTE = ["What is a violin?", "Define winter.", "What kind of thing is a tiger?", "What does honest mean?", "What is the capital of France?"]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default="build")
    ap.add_argument("--steps", type=int, default=4000)
    ap.add_argument("--decay-from", type=int, default=-1, help="step at which the learning rate starts to fall (default: 60%% of --steps)")
    ap.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    ap.add_argument("--lr", type=float, default=0.02)
    ap.add_argument("--adam-lr", type=float, default=0.003)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--minutes", type=float, default=0, help="leave after this many minutes, with a checkpoint")
    ap.add_argument("--save", type=int, default=100)
    ap.add_argument("--report", type=int, default=20)
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--compile", action="store_true", help="compile the model for its most frequent window length")
    o = ap.parse_args()
    decay_from = o.decay_from if o.decay_from >= 0 else int(0.6 * o.steps)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(o.seed)
    torch.set_num_threads(o.threads)
    os.makedirs(o.out, exist_ok=True)

    facts = Facts()
    if rank == 0 and not o.resume:
        make_tokenizer(facts).save(f"{o.out}/tokenizer.json")
    if world > 1:
        dist.barrier()
    tok = Tokenizer.from_file(f"{o.out}/tokenizer.json")
    held = tok.encode(facts.heldout).ids
    if rank == 0:
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "heldout.txt"), "w") as f:
            f.write(facts.heldout)
    data = Windows(facts, tok, o.seed)
    model = Llama()
    matrices = [p for p in model.blk.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    opts = [Muon(matrices, o.lr), torch.optim.AdamW(others, o.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
    base = [o.lr, o.adam_lr]
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(held)} held-out tokens", flush=True)
    if o.compile:
        model.compiled = torch.compile(model.hidden, dynamic=False)
    step = 0
    path = f"{o.out}/checkpoint.pt"
    if o.resume:
        ck = torch.load(path, weights_only=False)
        model.load_state_dict(ck["model"])
        for opt, s in zip(opts, ck["opt"]):
            opt.load_state_dict(s)
        step = ck["step"]
        data.epoch, data.chats, data.stream = ck["data"][:3]
        data.rng.setstate(ck["data"][3])
    grads = torch.zeros(sum(p.numel() for p in model.parameters()))     # all gradients live here, to be summed at once
    at = 0
    for p in model.parameters():
        p.grad = grads[at:at + p.numel()].view_as(p)
        at += p.numel()
    started = t0 = time.time()
    seen, run = 0, torch.zeros(1)
    while step < o.steps:
        # one step in 32 sees full-length windows; the others are short, since attention is what costs on a CPU
        B = max(world, o.tokens // 128) // world
        B, T = (max(1, B // 8), 1024) if step % 32 == 31 else (B // 2, 256) if step % 4 == 3 else (B, 128)
        x, y = (t[rank * B:(rank + 1) * B] for t in data.batch(B * world, T))
        f = min(1.0, (step + 1) / 100) * (1.0 if step < decay_from else max(0.0, (o.steps - step) / (o.steps - decay_from)))
        for opt, lr in zip(opts, base):
            for g in opt.param_groups:
                g["lr"] = lr * f
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.loss(x, y)
        loss.backward()
        run += loss.detach()
        if world > 1:
            dist.all_reduce(grads)
            grads /= world
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for opt in opts:
            opt.step()
        grads.zero_()
        step += 1
        seen += x.numel() * world
        if rank == 0 and os.path.exists(f"{o.out}/plan"):
            try:
                decay_from, o.steps = map(int, open(f"{o.out}/plan").read().split())
            except ValueError:
                pass
        plan = torch.tensor([decay_from, o.steps, o.minutes > 0 and time.time() - started > 60 * o.minutes], dtype=torch.float64)
        if world > 1:
            dist.broadcast(plan, 0)
        decay_from, o.steps, stop = map(int, plan.tolist())
        if step % o.report == 0:
            if rank == 0:
                print(f"step {step} epoch {data.epoch} loss {run.item() / o.report:.4f} lr {f:.3f} {seen / (time.time() - t0):.0f} tok/s", flush=True)
            t0, seen = time.time(), 0
            run.zero_()
        if rank == 0 and (step % o.save == 0 or step == o.steps or stop):
            torch.save(dict(model=model.state_dict(), config=CONFIG, step=step, opt=[p.state_dict() for p in opts],
                            data=(data.epoch, data.chats, data.stream, data.rng.getstate())), path + ".new")
            os.replace(path + ".new", path)
        if rank == 0 and (step % (5 * o.save) == 0 or step == o.steps):
            model.eval()
            print(f"held-out perplexity {perplexity(model, held)[0]:.3f}", *(f"{q} {greedy(model, tok, q)}" for q in TASTE), sep="\n  ", flush=True)
            model.train()
            t0, seen = time.time(), 0
        if stop:
            break


if __name__ == "__main__":
    main()
