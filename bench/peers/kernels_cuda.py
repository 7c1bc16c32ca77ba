"""The CUDA kernels of kernels/native/cuda beside cuBLAS (through PyTorch), on one GPU, without ONNX Runtime.

    python bench/peers/kernels_cuda.py LIBRARY [--decode] [--rows 1,2,4,8,16] [--at-once 4,8,16] [--prefill] [--accuracy] [--json FILE]

LIBRARY is libdbf_ops_cuda.so as `deno task kernels --cuda` builds it. A layer of shape n×m at b bits is two products with
k = floor(b·n·m/(n+m)): H = X·Bᵀ (k×m) and Y = H·Aᵀ (n×k). Decode cycles over distinct layers that total at least 512 MB packed
(or of cuBLAS's dense ones), recorded once as a CUDA graph and replayed; times are medians of replays. In the first figure every
layer waits for the one before; in those of --at-once the graph has so many branches that do not wait for each other, as the projections
q, k and v of an attention, gate and up of a feed-forward block, or experts do not.
"""

import argparse
import ctypes
import json
import statistics

import torch

SHAPES = [(4096, 4096), (4096, 14336), (8192, 28672)]
DISTINCT_BYTES = 512 << 20
AUTOMATIC, DECODE, WGMMA, MMA = 0, 1, 2, 3


class Library:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.dbf_cuda_scratch_bytes.restype = ctypes.c_int64
        self.scratch = []

    def make_scratch(self, branches, rows):
        """One for each branch: products that run at the same time must not share it. 6 bytes a number of X are the most that is asked for."""
        longest = max(m for _, m in SHAPES)
        self.scratch = [torch.empty((1 << 20) + 6 * rows * longest, dtype=torch.uint8, device="cuda") for _ in range(branches)]

    def __call__(self, x, signs, scale, y, path=AUTOMATIC, branch=0):
        (M, K), N = x.shape, y.shape[1]
        pointer = lambda tensor: ctypes.c_void_p(tensor.data_ptr())
        size = ctypes.c_int64
        needed = self.library.dbf_cuda_scratch_bytes(
            int(x.dtype == torch.float16), pointer(x), pointer(signs), pointer(y), size(M), size(N), size(K), path)
        if needed > self.scratch[branch].numel():
            raise ValueError(f"M={M} N={N} K={K} needs {needed} bytes of scratch: {self.scratch[branch].numel()} are there")
        error = self.library.dbf_cuda_binary_matmul(
            int(x.dtype == torch.float16), pointer(x), pointer(signs), pointer(scale), pointer(y), size(M), size(N), size(K),
            pointer(self.scratch[branch]), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream), path)
        if error:
            raise RuntimeError(f"CUDA error {error} for M={M} N={N} K={K}")


def packed(N, K):
    """Random signs in the stored layout."""
    return torch.randint(0, 256, ((N + 15) // 16, (K + 31) // 32, 16, 4), dtype=torch.uint8, device="cuda")


def unpack(signs, N, K):
    """±1 (N, K) in float64."""
    bits = signs.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device="cuda") & 1  # [blocks, words, 16, 4, 8]
    rows = bits.permute(0, 2, 1, 3, 4).reshape(signs.shape[0] * 16, -1)
    return rows[:N, :K].double() * 2 - 1


def seconds(record, replays=15):
    """Median time of one replay of what `record` enqueues."""
    record()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        record()
    for _ in range(3):
        graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def at_once(record, branches):
    """What enqueues record(0) to record(branches - 1) on streams of their own, between a fork and a join."""
    streams = [torch.cuda.Stream() for _ in range(branches)]

    def all_branches():
        main = torch.cuda.current_stream()
        for branch, stream in enumerate(streams):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                record(branch)
        for stream in streams:
            main.wait_stream(stream)

    return all_branches


def copy_rate():
    source = torch.randint(0, 256, (2 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), 7)


def middle(n, m, bits):
    return int(bits * n * m / (n + m))


def floor(library):
    """What a kernel costs that must wait for the one before: PyTorch's smallest, and our product where there is next to nothing to do."""
    one = torch.zeros(1, device="cuda")
    x = torch.randn(1, 32, device="cuda", dtype=torch.float16)
    y = torch.empty(1, 16, device="cuda", dtype=torch.float16)
    library.make_scratch(1, 1)
    signs, scale = packed(16, 32), torch.ones(16, device="cuda", dtype=torch.float16)
    count = 400
    add = seconds(lambda: [one.add_(1) for _ in range(count)]) / count
    product = seconds(lambda: [library(x, signs, scale, y) for _ in range(count)]) / count
    print(f"a chain of kernels: 1 element added {add * 1e6:.2f} us, product of 16x32 {product * 1e6:.2f} us", flush=True)
    return dict(addUs=add * 1e6, productUs=product * 1e6)


def distinct(layer_bytes, branches):
    """How many layers: DISTINCT_BYTES at least, as many for every branch."""
    return -(-DISTINCT_BYTES // (layer_bytes * branches)) * branches


def decode(library, rate, rows_list, branches_list, dtype=torch.float16):
    results = []
    most = max(branches_list)
    library.make_scratch(most, max(rows_list))
    for n, m in SHAPES:
        dense_count = distinct(2 * n * m, most)
        dense = [torch.randn(n, m, device="cuda", dtype=torch.float16) for _ in range(dense_count)]
        dense_time, dense_at_once = {}, {}
        for rows in rows_list:
            x = torch.randn(rows, m, device="cuda", dtype=torch.float16)
            outs = [torch.empty(rows, n, device="cuda", dtype=torch.float16) for _ in range(most)]

            def dense_layers(branch, step):
                for w in dense[branch::step]:
                    torch.matmul(x, w.T, out=outs[branch])

            dense_time[rows] = seconds(lambda: dense_layers(0, 1)) / dense_count
            dense_at_once[rows] = {
                branches: seconds(at_once(lambda branch: dense_layers(branch, branches), branches)) / dense_count for branches in branches_list
            }
        del dense
        for bits in (1, 2):
            k = middle(n, m, bits)
            first = [packed(k, m)]
            second = [packed(n, k)]
            layer_bytes = first[0].numel() + second[0].numel()
            count = distinct(layer_bytes, most)
            first += [packed(k, m) for _ in range(count - 1)]
            second += [packed(n, k) for _ in range(count - 1)]
            for rows in rows_list:
                x = torch.randn(rows, m, device="cuda", dtype=dtype)
                h = torch.empty(most, rows, k, device="cuda", dtype=dtype)
                y = torch.empty(most, rows, n, device="cuda", dtype=dtype)
                mid = torch.full((k,), m**-0.5, device="cuda", dtype=dtype)
                a = torch.full((n,), k**-0.5, device="cuda", dtype=dtype)

                def run(path=AUTOMATIC, branch=0, step=1):
                    for f, s in zip(first[branch::step], second[branch::step]):
                        library(x, f, mid, h[branch], path, branch)
                        library(h[branch], s, a, y[branch], path, branch)

                time = seconds(run) / count
                together = [(branches, seconds(at_once(lambda branch: run(AUTOMATIC, branch, branches), branches)) / count)
                            for branches in branches_list]
                # Where few rows become many: what the prefill kernels would take.
                as_prefill = {name: seconds(lambda: run(path)) / count * 1e6 for name, path in (("wgmma", WGMMA), ("mma", MMA))
                              if rows >= 4 and (name == "mma" or k % 8 == 0)}
                results.append(dict(shape=[n, m], bits=bits, k=k, rows=rows, layers=count, bytes=layer_bytes, us=time * 1e6,
                                    ofCopy=layer_bytes / time / rate, cublasUs=dense_time[rows] * 1e6,
                                    faster=dense_time[rows] / time,
                                    atOnce=[dict(branches=branches, us=each * 1e6, ofCopy=layer_bytes / each / rate,
                                                 cublasUs=dense_at_once[rows][branches] * 1e6) for branches, each in together],
                                    prefillUs=as_prefill))
                r = results[-1]
                print(f"decode {n}x{m} {bits} bit {rows:3d} rows: {r['us']:8.2f} us  {layer_bytes / time / 1e12:5.2f} TB/s "
                      f"= {100 * r['ofCopy']:5.1f} % of copy   cuBLAS {r['cublasUs']:8.2f} us ({r['faster']:.2f}x)"
                      + "".join(f"   {a['branches']} at once: {a['us']:6.2f} us = {100 * a['ofCopy']:5.1f} % (cuBLAS {a['cublasUs']:.2f} us)"
                                for a in r["atOnce"])
                      + "".join(f"   as prefill, {name} {us:.2f} us" for name, us in as_prefill.items()), flush=True)
            del first, second
    return results


def prefill(library, rows_list, dtype=torch.float16, path=AUTOMATIC):
    results = []
    library.make_scratch(1, max(rows_list))
    torch.backends.cuda.matmul.allow_tf32 = False
    for n, m in SHAPES:
        for bits in (1, 2):
            k = middle(n, m, bits)
            if dtype == torch.float16 and path == AUTOMATIC:
                k = k // 16 * 16  # as --set allocation.step=16 rounds it
            count = 4
            signs = [(packed(k, m), packed(n, k)) for _ in range(count)]
            dense = [(torch.randn(k, m, device="cuda", dtype=dtype).sign(), torch.randn(n, k, device="cuda", dtype=dtype).sign())
                     for _ in range(count)]
            mid = torch.full((k,), m**-0.5, device="cuda", dtype=dtype)
            a = torch.full((n,), k**-0.5, device="cuda", dtype=dtype)
            for rows in rows_list:
                x = torch.randn(rows, m, device="cuda", dtype=dtype)
                h = torch.empty(rows, k, device="cuda", dtype=dtype)
                y = torch.empty(rows, n, device="cuda", dtype=dtype)

                def ours():
                    for f, s in signs:
                        library(x, f, mid, h, path)
                        library(h, s, a, y, path)

                def theirs():
                    for f, s in dense:
                        torch.matmul(x, f.T, out=h)
                        torch.matmul(h, s.T, out=y)

                x.mul_(0.05)
                mine, other = seconds(ours, 7) / count, seconds(theirs, 7) / count
                products = 2 * rows * k * (n + m)
                results.append(dict(shape=[n, m], bits=bits, k=k, rows=rows, dtype=str(dtype), us=mine * 1e6, cublasUs=other * 1e6,
                                    rate=other / mine))
                print(f"prefill {dtype} {n}x{m} {bits} bit {rows:4d} rows: {mine * 1e6:8.1f} us {products / mine / 1e12:6.1f} TFLOP/s   "
                      f"cuBLAS {other * 1e6:8.1f} us {products / other / 1e12:6.1f} TFLOP/s   rate {other / mine:.2f}", flush=True)
            del signs, dense
    return results


def accuracy(library):
    """‖y − y64‖ / ‖y64‖, N = 4096, with outliers in X; float32's product through cuBLAS beside it."""
    results = []
    library.make_scratch(1, 64)
    torch.backends.cuda.matmul.allow_tf32 = False
    for K, dtype, rows_list in ((4096, torch.float32, (1, 4, 16, 64)), (4096, torch.float16, (1, 4, 16, 64)),
                                (28672, torch.float32, (1, 64)), (28672, torch.float16, (1, 64))):
        signs = packed(4096, K)
        weights = unpack(signs, 4096, K)
        for rows in rows_list:
            x = torch.randn(rows, K, device="cuda")
            x[:, ::512] *= 50
            x = x.to(dtype)
            scale = torch.full((4096,), 0.001, device="cuda", dtype=dtype)
            exact = x.double() @ weights.T * scale.double()
            relative = lambda y: ((y.double() - exact).norm() / exact.norm()).item()
            plain = (x.float() @ weights.float().T * scale.float()).to(dtype)
            for name, path in (("decode", DECODE), ("wgmma", WGMMA), ("mma", MMA)):
                y = torch.full((rows, 4096), float("nan"), device="cuda", dtype=dtype)
                library(x, signs, scale, y, path)
                results.append(dict(dtype=str(dtype), K=K, rows=rows, kernel=name, error=relative(y), float32=relative(plain)))
                print(f"accuracy {dtype} K {K} {rows:3d} rows {name:7s} {relative(y):.2e}   float32 through cuBLAS {relative(plain):.2e}", flush=True)
    return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--json")
    parser.add_argument("--at-once", default="4,8,16", help="numbers of independent layers, for --decode")
    parser.add_argument("--rows", default="1,2,4,8,16", help="of X, for --decode")
    for part in ("decode", "prefill", "accuracy"):
        parser.add_argument(f"--{part}", action="store_true")
    options = parser.parse_args()
    everything = not (options.decode or options.prefill or options.accuracy)
    torch.manual_seed(1)
    library = Library(options.library)
    rate = copy_rate()
    results = dict(device=torch.cuda.get_device_name(), torch=torch.__version__, copyRate=rate)
    print(f"{results['device']}, copy {rate / 1e12:.2f} TB/s (read + written)")
    with torch.no_grad():
        if everything or options.accuracy:
            results["accuracy"] = accuracy(library)
        if everything or options.decode:
            results["floor"] = floor(library)
            branches = [int(branches) for branches in options.at_once.split(",")]
            results["decode"] = decode(library, rate, [int(rows) for rows in options.rows.split(",")], branches)
            print("float32:")
            results["decodeFloat32"] = decode(library, rate, [1], branches, torch.float32)
        if everything or options.prefill:
            results["prefill"] = prefill(library, [512, 2048])
            results["prefillFloat32"] = prefill(library, [512], torch.float32)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
