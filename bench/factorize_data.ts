/**
 * The bench's own small reader of safetensors files that fit in memory.
 *
 * @module
 */

/** A tensor in memory. */
export interface LoadedTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Reads an F32 and BF16 file whole. */
export function openSafetensors(path: string): { readonly names: string[]; tensor(name: string): LoadedTensor } {
  const bytes = Deno.readFileSync(path);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  return {
    names: Object.keys(header).filter((name) => name !== "__metadata__"),
    tensor(name) {
      const { dtype, shape, data_offsets: [start, end] } = header[name];
      const raw = bytes.slice(8 + length + start, 8 + length + end).buffer;
      if (dtype === "F32") return { shape, data: new Float32Array(raw) };
      if (dtype !== "BF16") throw new TypeError(`Cannot read ${name} of ${path} as F32 or BF16: it is ${dtype}`);
      const wide = Uint32Array.from(new Uint16Array(raw), (half) => half << 16);
      return { shape, data: new Float32Array(wide.buffer) };
    },
  };
}
