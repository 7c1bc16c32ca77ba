/**
 * Tensors of packed layers as streams for an export.
 *
 * @module
 */
import { bf16BitsToF32, f16BitsToF32, f32ToF16Bits } from "../../../pipeline/checkpoint/half.ts";
import type { ExternalSource } from "../../../pipeline/graph/types.ts";
import type { PackedLayer, PackedTensor } from "../../../pipeline/stream/stage.ts";

/**
 * Stored floats as f32.
 *
 * @throws {TypeError} for another type.
 */
export function packedFloats({ dtype, data }: PackedTensor): Float32Array {
  const aligned = data.slice();
  if (dtype === "F32") return new Float32Array(aligned.buffer);
  if (dtype === "F16") return f16BitsToF32(new Uint16Array(aligned.buffer));
  if (dtype === "BF16") return bf16BitsToF32(new Uint16Array(aligned.buffer));
  throw new TypeError(`Cannot read scales stored as ${dtype}`);
}

/** Checks a packed layer against what the graph was built for: elements by tensor name. */
export function checkElements(layer: PackedLayer, name: string, sizes: Readonly<Record<string, number>>): void {
  for (const [tensor, elements] of Object.entries(sizes)) {
    const stored = layer.tensors[tensor];
    const count = stored?.shape.reduce((product, size) => product * size, 1);
    if (count !== elements) {
      throw new RangeError(
        `Cannot export "${name}": its tensor "${tensor}" has ${count ?? "no"} elements, not ${elements}`,
      );
    }
  }
}

/** What a layer's tensors become: bytes as they are, or scales in the export's type. */
export interface LayerContent {
  readonly bytes: Readonly<Record<string, Uint8Array>>;
  readonly scales: Readonly<Record<string, Float32Array>>;
}

/**
 * Streams of a layer's tensors; they follow each other in the file, so the layer is read once.
 *
 * @param sizes Elements by tensor name, of bytes and of scales.
 * @param read Reads the layer.
 */
export function layerSources(
  sizes: { readonly bytes: Readonly<Record<string, number>>; readonly scales: Readonly<Record<string, number>> },
  dtype: "float32" | "float16",
  read: () => Promise<LayerContent>,
): Record<string, ExternalSource> {
  const tensors = [...Object.keys(sizes.bytes), ...Object.keys(sizes.scales)];
  let left = 0;
  let reading: Promise<LayerContent> | undefined;
  const take = async () => {
    reading ??= (left = tensors.length, read());
    const result = await reading;
    if (--left === 0) reading = undefined;
    return result;
  };
  const sources: Record<string, ExternalSource> = {};
  for (const [name, byteLength] of Object.entries(sizes.bytes)) {
    sources[name] = {
      byteLength,
      async *chunks() {
        yield (await take()).bytes[name];
      },
    };
  }
  for (const [name, elements] of Object.entries(sizes.scales)) {
    sources[name] = {
      byteLength: elements * (dtype === "float32" ? 4 : 2),
      async *chunks() {
        const values = (await take()).scales[name];
        const stored = dtype === "float32" ? values : f32ToF16Bits(values);
        yield new Uint8Array(stored.buffer as ArrayBuffer, stored.byteOffset, stored.byteLength);
      },
    };
  }
  return sources;
}
