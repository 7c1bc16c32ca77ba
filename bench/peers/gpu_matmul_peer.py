"""Rate of a chain of float32 products in PyTorch, with and without TF32: the peer of `deno task bench runtime --provider cuda`.

Usage: python3 gpu_matmul_peer.py [size] [count]
"""
import sys
import torch

size = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
count = int(sys.argv[2]) if len(sys.argv) > 2 else 64
x = torch.full((size, size), 1 / size, device="cuda")
w = x.clone()


def chain():
    y = x
    for _ in range(count):
        y = y @ w
    return y


for tf32 in (True, False):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    for _ in range(3):
        chain()
    torch.cuda.synchronize()
    times = []
    for _ in range(7):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        chain()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    milliseconds = sorted(times)[3]
    rate = 2 * size**3 * count / milliseconds / 1e9
    print(f"{count} f32 products of {size}^3, {'TF32' if tf32 else 'no TF32'}: {rate:.2f} TFLOP/s ({milliseconds:.1f} ms, median of 7), {torch.cuda.get_device_name()}, torch {torch.__version__}")
