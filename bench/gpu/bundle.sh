#!/usr/bin/env bash
# deno task gpu:bundle OUT [SM]: packs this checkout for an offline Linux machine with an NVIDIA GPU (CUDA 13 and cuDNN 9 installed, no Deno, no network).
#
# OUT/dbf-gpu.tar.xz holds the checkout's committed files, its built kernels, node_modules (only Linux x64 libraries), Deno, and ONNX Runtime's CUDA provider beside
# onnxruntime-node's library. SM (default 90: H100, H200) is the GPU generation whose machine code is kept: the provider shrinks from 270 to 50 MB. There:
#
#     tar -xJf dbf-gpu.tar.xz && source dbf-gpu/activate.sh && deno task dbf doctor
#
# Needs git, tar, xz, python3 with pip, unzip, and the packages installed (deno install).
set -euo pipefail
out=${1:?usage: deno task gpu:bundle OUT [SM]}; sm=${2:-90}
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
target=$work/dbf-gpu; mkdir -p "$target/bin" "$out"

git -C "$root" archive HEAD | tar -x -C "$target"
if [ -d "$root/kernels/native/build" ]; then
  mkdir -p "$target/kernels/native/build"; find "$root/kernels/native/build" -maxdepth 1 -name '*.so*' -exec cp {} "$target/kernels/native/build/" \;
fi
cp -a "$root/node_modules" "$target/"
ort=$(find "$target/node_modules/.deno" -path '*/onnxruntime-node/bin/napi-v6' -type d | head -1)
find "$ort" -mindepth 1 -maxdepth 1 ! -name linux -exec rm -rf {} +; rm -rf "$ort/linux/arm64"
version=$(echo "$ort" | sed -E 's/.*onnxruntime-node@([0-9.]+).*/\1/')

deno=$(deno eval -p 'Deno.execPath()'); cp -L "$deno" "$target/bin/deno"
# Deno's cache of the lock file's registry answers, without which it would ask the network.
deno_dir=$(deno info --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["denoDir"])')
mkdir -p "$target/deno_dir"; [ -d "$deno_dir/npm" ] && find "$deno_dir/npm" -name registry.json | while read -r f; do
  d="$target/deno_dir/${f#"$deno_dir"/}"; mkdir -p "$(dirname "$d")"; cp "$f" "$d"; done

python3 -m pip download -q --no-deps -d "$work/whl" --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 "onnxruntime-gpu==$version"
unzip -qo "$work"/whl/*.whl 'onnxruntime/capi/*providers*.so' -d "$work"
python3 "$root/bench/gpu/prune_cuda_provider.py" "$work/onnxruntime/capi/libonnxruntime_providers_cuda.so" "$ort/linux/x64/libonnxruntime_providers_cuda.so" "$sm"
cp "$work/onnxruntime/capi/libonnxruntime_providers_shared.so" "$ort/linux/x64/"

cat > "$target/activate.sh" <<'ACTIVATE'
# source this: puts deno on PATH and makes CUDA and cuDNN libraries findable, wherever they are installed (also inside Python packages).
cd "$(dirname "${BASH_SOURCE[0]}")" && export PATH=$PWD/bin:$PATH DENO_DIR=$PWD/deno_dir DENO_NO_UPDATE_CHECK=1
LD_LIBRARY_PATH=$(find / -xdev \( -name 'libcublasLt.so.13' -o -name 'libcudnn.so.9' -o -name 'libcufft.so.12' -o -name 'libcudart.so.13' -o -name 'libcurand.so.10' -o -name 'libnvrtc.so.13' \) -printf '%h\n' 2>/dev/null | sort -u | paste -sd:)
export LD_LIBRARY_PATH
ACTIVATE
tar -C "$work" -cf - dbf-gpu | xz -T0 -3 > "$out/dbf-gpu.tar.xz"
ls -l "$out/dbf-gpu.tar.xz"
