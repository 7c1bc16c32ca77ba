#!/usr/bin/env python3
"""The reference's ADMM (arXiv 2505.11076, section on ADMM) on single matrices, in PyTorch, with its result written for scoring.

usage: factorize_peer.py [--layers FILE] [--gaussian 4096x11008 ...] [--bits 1 1.5 2] [--iterations 260]
                         [--threads 2] [--device cpu|cuda] [--tf32] --out DIR

Prints one JSON line per matrix and bit width: {"name", "rows", "cols", "bits", "rank", "seconds", "file"}. FILE is a safetensors
file of weights `X.weight` with `X.input_importance` (cols,) and `X.output_importance` (rows,) beside each. The file of a result
holds packed signs (least significant bit first) and float16 scales: A (n, 4*ceil(k/32)) u8, B (k, 4*ceil(m/32)) u8, a, mid, b.
With --score DIR it computes instead, in f64 from those files, the weighted error of every result in DIR, ours included.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file

parser = argparse.ArgumentParser()
parser.add_argument("--layers")
parser.add_argument("--gaussian", nargs="*", default=[])
parser.add_argument("--only", nargs="*", default=[])
parser.add_argument("--bits", type=float, nargs="+", default=[1.0, 1.5, 2.0])
parser.add_argument("--iterations", type=int, default=260)
parser.add_argument("--threads", type=int, default=0)
parser.add_argument("--device", default="cpu")
parser.add_argument("--tf32", action="store_true")
parser.add_argument("--out")
parser.add_argument("--score")
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)
torch.backends.cuda.matmul.allow_tf32 = args.tf32
device = args.device


def matrices():
    """Yields name, W in f32, and the weighting's square roots of rows and columns."""
    if args.layers:
        tensors = load_file(args.layers)
        for key in sorted(name for name in tensors if name.endswith(".weight")):
            base = key[: -len(".weight")]
            if args.only and base not in args.only:
                continue
            col = tensors[base + ".input_importance"].sqrt()
            row = tensors[base + ".output_importance"].sqrt()
            yield base, tensors[key].float(), row / row.mean() + 1e-8, col / col.mean() + 1e-8
    for shape in args.gaussian:
        n, m = map(int, shape.split("x"))
        # The same numbers as bench/factorize.ts reads from the file beside the results.
        path = os.path.join(args.out or args.score, f"gaussian-{shape}.f32")
        w = torch.from_numpy(np.fromfile(path, dtype=np.float32).reshape(n, m))
        yield f"gaussian-{shape}", w, torch.ones(n), torch.ones(m)


def power_iteration(x, count=5):
    v = torch.randn(x.shape[1], device=device)
    v /= v.norm()
    for _ in range(count):
        u = x @ v
        u /= u.norm()
        v = x.T @ u
        v /= v.norm()
    u = x @ v
    return u / u.norm(), u.norm(), v


def svid(x):
    u, s, v = power_iteration(x.abs())
    return s * torch.outer(u, v) * torch.where(x >= 0, 1.0, -1.0)


def half(factor, w, z, dual, rho_start, inner=3, ridge=3e-2):
    gram = factor.T @ factor
    eye = torch.eye(gram.shape[0], device=device)
    gram = gram + ridge * gram.diag().mean() * eye
    cross = factor.T @ w
    first, rest = torch.inverse(gram + rho_start * eye), torch.inverse(gram + eye)
    x = first @ (cross + rho_start * (z - dual))
    for _ in range(inner - 1):
        z = svid(x + dual)
        dual = dual + (x - z)
        x = rest @ (cross + (z - dual))
    z = svid(x + dual)
    return z, dual + (x - z)


def factorize(w, k, iterations):
    n, m = w.shape
    az, bz = torch.randn(n, k, device=device), torch.randn(k, m, device=device)
    au, bu = torch.zeros_like(az), torch.zeros_like(bz)
    for t in range(iterations):
        rho = max(min(1.0, t / (iterations - 3)), 1e-9) ** 3
        az, au = (x.T for x in half(bz.T / (bz.norm(dim=1) + 1e-12), w.T, az.T, au.T, rho))
        mid = az.norm(dim=0) + 1e-12
        bz, bu = half(az / mid, w, bz, bu, rho)
    return az / mid, bz


def pack(positive):
    rows, cols = positive.shape
    width = 4 * -(-cols // 32)
    return np.pad(np.packbits(positive, axis=1, bitorder="little"), ((0, 0), (0, width - -(-cols // 8))))


def unpack(bits, cols):
    return np.unpackbits(bits, axis=1, bitorder="little")[:, :cols].astype(np.float64) * 2 - 1


def rank_one(x):
    """Row and column magnitudes of a matrix that is sign times rank one."""
    u, s, v = power_iteration(x.abs(), 20)
    return (u * s).cpu().double().numpy(), v.cpu().double().numpy()


def save(path, a_signs, b_signs, row, col):
    """Signs and magnitudes of the weighted factors, weighting undone, magnitudes balanced, scales in float16."""
    (ua, va), (ub, vb) = rank_one(a_signs), rank_one(b_signs)
    scales = [ua / row.double().numpy(), va * ub, vb / col.double().numpy()]
    means = [np.abs(scale).mean() for scale in scales]
    target = np.cbrt(means[0] * means[1] * means[2])
    a, mid, b = (torch.from_numpy(scale * (target / mean)).half() for scale, mean in zip(scales, means))
    tensors = dict(a=a, mid=mid, b=b)
    for name, signs in (("A", a_signs), ("B", b_signs)):
        tensors[name] = torch.from_numpy(np.ascontiguousarray(pack((signs >= 0).cpu().numpy())))
    save_file(tensors, path)


def score(path, w, row, col):
    """Weighted error in f64 from packed signs and float16 scales."""
    t = load_file(path)
    a, mid, b = (t[name].double().numpy() for name in ("a", "mid", "b"))
    left = unpack(t["A"].numpy(), len(mid)) * a[:, None] * mid
    estimate = torch.from_numpy(left).to(device) @ torch.from_numpy(unpack(t["B"].numpy(), len(b)) * b).to(device)
    weight = row.double()[:, None].to(device) * col.double().to(device)
    target = w.double().to(device)
    return (((target - estimate) * weight).square().sum() / (target * weight).square().sum()).item()


for name, w, row, col in matrices():
    if args.score:
        for file in sorted(os.listdir(args.score)):
            if file.endswith(".safetensors") and file.split("@")[0].split(".", 1)[1] == name:
                print(json.dumps(dict(file=file, weightedError=score(os.path.join(args.score, file), w, row, col))), flush=True)
        continue
    n, m = w.shape
    for bits in args.bits:
        k = max(1, int(bits * n * m / (n + m)))
        torch.manual_seed(0)
        weighted = (row[:, None] * w * col).to(device)
        if device == "cuda":
            factorize(weighted, k, 4)
            torch.cuda.synchronize()
        start = time.perf_counter()
        a_signs, b_signs = factorize(weighted, k, args.iterations)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        file = f"peer.{name}@{bits:g}.safetensors"
        save(os.path.join(args.out, file), a_signs, b_signs, row, col)
        print(json.dumps(dict(name=name, rows=n, cols=m, bits=bits, rank=k, seconds=seconds, file=file)), flush=True)
