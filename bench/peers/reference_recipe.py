#!/usr/bin/env python3
"""The reference's whole recipe (arXiv 2505.11076) in PyTorch, for `deno task bench quality --peer-python`.

usage: reference_recipe.py MODEL CALIBRATION HELDOUT [--bits 1.0] [--sequences 256] [--context 256] [--tokens 50000]
                           [--iterations 260] [--epochs 6] [--threads 2]

Llama-type Hugging Face directories. Importance E[x^2], E[g^2] of every linear from the loss on the calibration text; blocks in
order, linears in the order q, v, o, k, up, gate, down; each is factorized by ADMM (260 outer and 3 inner steps, ridge 0.03, cubic
penalty ramp); before q (from the second block) and before k all weights of the block that are still dense are retuned (AdamW, rate
3e-5, 6 epochs) against the full-precision block's output, weighted by E[g^2] of down_proj. Nothing is refitted or distilled
afterwards. Prints one JSON line: {"bits", "perplexity", "kl", "sameTop1", "seconds"}; KL(full precision || compressed) is in nats
a token. Windows do not overlap, the first token of each is unscored, no special tokens are added.
"""
import argparse
import copy
import json
import math
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ORDER = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "self_attn.k_proj",
         "mlp.up_proj", "mlp.gate_proj", "mlp.down_proj"]
BATCH = 8

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("calibration")
parser.add_argument("heldout")
parser.add_argument("--bits", type=float, default=1.0)
parser.add_argument("--sequences", type=int, default=256)
parser.add_argument("--context", type=int, default=256)
parser.add_argument("--tokens", type=int, default=50_000)
parser.add_argument("--iterations", type=int, default=260)
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--threads", type=int, default=0)
args = parser.parse_args()
if args.threads > 0:
    torch.set_num_threads(args.threads)
torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = Tokenizer.from_file(args.model + "/tokenizer.json")
load = lambda: AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device).eval().requires_grad_(False)
model, teacher = load(), load()
blocks = model.model.layers


def windows(path, count):
    ids = tokenizer.encode(open(path, newline=None).read(), add_special_tokens=False).ids
    count = min(count, len(ids) // args.context)
    return torch.tensor(ids[: count * args.context]).view(count, args.context).to(device)


def importance(ids):
    """E[x^2] of inputs and E[g^2] of output gradients by (block, role)."""
    sums, hooks = {}, []
    for b, block in enumerate(blocks):
        for role in ORDER:
            linear = block.get_submodule(role)
            own = sums[b, role] = [torch.zeros(linear.in_features, device=device), torch.zeros(linear.out_features, device=device)]

            def forward(_, x, y, own=own):
                own[0].add_(x[0].detach().square().flatten(0, -2).sum(0))

            def backward(_, into, out, own=own):
                own[1].add_(out[0].square().flatten(0, -2).sum(0))

            hooks += [linear.register_forward_hook(forward), linear.register_full_backward_hook(backward)]
    for batch in ids.split(4):
        embedded = model.get_input_embeddings()(batch).detach().requires_grad_(True)
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").backward()
    for hook in hooks:
        hook.remove()
    return {key: [each / ids.numel() for each in pair] for key, pair in sums.items()}


def rank_one(x, rounds=5):
    v = torch.randn(x.shape[1], device=device)
    for _ in range(rounds):
        u = F.normalize(x @ v, dim=0)
        v = F.normalize(x.T @ u, dim=0)
    u = x @ v
    return torch.outer(u, v)


def svid(x):
    return torch.where(x >= 0, 1.0, -1.0) * rank_one(x.abs())


def half_step(fixed, target, z, dual, penalty):
    """Z of min ||fixed Z - target||, three inner steps; the first has its own penalty."""
    gram = fixed.T @ fixed
    eye = torch.eye(len(gram), device=device)
    gram, right = gram + 0.03 * gram.diag().mean() * eye, fixed.T @ target
    for inner in range(3):
        rho = penalty if inner == 0 else 1.0
        x = torch.linalg.solve(gram + rho * eye, right + rho * (z - dual))
        z = svid(x + dual)
        dual = dual + x - z
    return z, dual


def factorize(weight, inputs, outputs):
    """The dense weight that signs and scales of rank k = floor(bits n m / (n + m)) stand for."""
    n, m = weight.shape
    k = int(args.bits * n * m / (n + m))
    row, col = outputs.sqrt(), inputs.sqrt()
    row, col = row / row.mean() + 1e-8, col / col.mean() + 1e-8
    target = row[:, None] * weight * col
    a, b = torch.randn(n, k, device=device), torch.randn(k, m, device=device)
    dual_a, dual_b = torch.zeros_like(a), torch.zeros_like(b)
    for step in range(args.iterations):
        penalty = max(min(1.0, step / (args.iterations - 3)) ** 3, 1e-9)
        middle = b.norm(dim=1) + 1e-12
        a, dual_a = (x.T for x in half_step((b.T / middle), target.T, a.T, dual_a.T, penalty))
        middle = a.norm(dim=0) + 1e-12
        b, dual_b = half_step(a / middle, target, b, dual_b, penalty)
    return (a / middle) @ b / row[:, None] / col


def run(block, hidden, rotary):
    out = block(hidden, position_embeddings=rotary, attention_mask=None, position_ids=None)
    return out[0] if isinstance(out, tuple) else out


def forward(block, hidden, rotary):
    with torch.no_grad():
        return torch.cat([run(block, part, rotary) for part in hidden.split(BATCH)])


def retune(block, dense, hidden, target, weight, rotary):
    parameters = [linear.weight.requires_grad_(True) for linear in dense]
    optimizer = torch.optim.AdamW(parameters, lr=3e-5, weight_decay=0, betas=(0.9, 0.95))
    steps = max(1, args.epochs * len(hidden) // BATCH)
    schedule = lambda t: max(1e-3, min(1, (t + 1) / max(1, 0.05 * steps)) * (0.5 + 0.5 * math.cos(math.pi * t / steps)))
    for step in range(steps):
        if step % (len(hidden) // BATCH) == 0:
            order = torch.randperm(len(hidden)).split(BATCH)
        chosen = order[step % (len(hidden) // BATCH)]
        for group in optimizer.param_groups:
            group["lr"] = 3e-5 * schedule(step)
        loss = ((run(block, hidden[chosen], rotary) - target[chosen]).square() * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)


def score(ids):
    loss = divergence = same = count = 0
    with torch.no_grad():
        for batch in ids.split(4):
            ours, exact = (F.log_softmax(each(batch, use_cache=False).logits[:, :-1].flatten(0, 1), -1) for each in (model, teacher))
            loss += F.nll_loss(ours, batch[:, 1:].flatten(), reduction="sum").item()
            divergence += (exact.exp() * (exact - ours)).sum().item()
            same += (ours.argmax(-1) == exact.argmax(-1)).sum().item()
            count += len(ours)
    return {"perplexity": math.exp(loss / count), "kl": divergence / count, "sameTop1": same / count}


def main():
    started = time.time()
    ids = windows(args.calibration, args.sequences)
    scores = importance(ids)
    with torch.no_grad():
        exact = torch.cat([model.get_input_embeddings()(part) for part in ids.split(BATCH)])
    compressed = exact.clone()
    rotary = model.model.rotary_emb(exact[:1], torch.arange(args.context, device=device)[None])
    for b, block in enumerate(blocks):
        target = forward(copy.deepcopy(block), exact, rotary)
        weight = scores[b, "mlp.down_proj"][1]
        remaining = list(ORDER)
        for role in ORDER:
            if (role.endswith("q_proj") and b > 0) or role.endswith("k_proj"):
                retune(block, [block.get_submodule(each) for each in remaining], compressed, target, weight / weight.mean(), rotary)
            linear = block.get_submodule(role)
            linear.weight.data = factorize(linear.weight.data, *scores[b, role])
            remaining.remove(role)
        exact, compressed = target, forward(block, compressed, rotary)
    seconds = time.time() - started
    print(json.dumps({"bits": args.bits, **score(windows(args.heldout, args.tokens // args.context)), "seconds": round(seconds, 1)}))


main()
