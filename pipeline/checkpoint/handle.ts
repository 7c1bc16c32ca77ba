/**
 * A tensor of a safetensors file, read on demand.
 *
 * @module
 */
import { applyBlockScale, type BlockScale } from "./block_scale.ts";
import { decodeElements } from "./decode.ts";
import type { SafetensorsTensor } from "./safetensors.ts";
import { DTYPE_BYTES } from "./safetensors_dtype.ts";
import type { ShardFile } from "./shard_file.ts";
import type { TensorHandle, WeightDType } from "./types.ts";

/** Stored bytes decoded at a time: large enough for a disk's full speed, small beside any layer. */
const DECODE_CHUNK_BYTES = 1 << 20;

/** Bytes a chunk of {@linkcode TensorHandle.bytes} holds by default. */
const COPY_CHUNK_BYTES = 1 << 22;

/** What a handle is made from. */
export interface HandleSource {
  readonly tensor: SafetensorsTensor & { readonly dtype: WeightDType };
  readonly shard: ShardFile;
  /** Where the data of the file starts. */
  readonly dataStart: number;
  /** Loads the scale beside an 8-bit weight; called at the first read. */
  readonly scale?: (signal?: AbortSignal) => Promise<BlockScale>;
  /** Told of every array handed out. */
  readonly onRead?: (values: Float32Array) => void;
}

/** Makes a handle. Beyond the f32 result a read holds at most one stored chunk of 1 MiB. */
export function createTensorHandle({ tensor, shard, dataStart, scale, onRead }: HandleSource): TensorHandle {
  const { name, dtype, shape, elements } = tensor;
  const size = DTYPE_BYTES[dtype];
  const rows = shape[0] ?? 1;
  const rowElements = rows === 0 ? 0 : elements / rows;
  const position = dataStart + tensor.begin;
  let loadedScale: Promise<BlockScale> | undefined;

  const readElements = async (begin: number, count: number, signal?: AbortSignal): Promise<Float32Array> => {
    const out = new Float32Array(count);
    if (dtype === "F32") {
      const target = new Uint8Array(out.buffer);
      for (let done = 0; done < target.byteLength; done += COPY_CHUNK_BYTES) {
        const part = target.subarray(done, Math.min(done + COPY_CHUNK_BYTES, target.byteLength));
        await shard.readInto(part, position + begin * size + done, `"${name}"`, signal);
      }
      return out;
    }
    const step = DECODE_CHUNK_BYTES / size;
    const chunk = new Uint8Array(Math.min(count, step) * size);
    for (let done = 0; done < count; done += step) {
      const length = Math.min(step, count - done);
      const stored = chunk.subarray(0, length * size);
      await shard.readInto(stored, position + (begin + done) * size, `"${name}"`, signal);
      decodeElements(dtype, stored, out.subarray(done, done + length));
    }
    return out;
  };

  const readRows = async (start: number, end: number, signal?: AbortSignal): Promise<Float32Array> => {
    if (!Number.isInteger(start) || !Number.isInteger(end) || start < 0 || end < start || end > rows) {
      throw new RangeError(
        `Cannot read rows of "${name}", which has ${rows}: current value is [${start}, ${end})`,
      );
    }
    signal?.throwIfAborted();
    const values = await readElements(start * rowElements, (end - start) * rowElements, signal);
    if (scale !== undefined) {
      // A failed load is not remembered, so that reading may be tried again.
      loadedScale ??= scale(signal).catch((cause) => {
        loadedScale = undefined;
        throw cause;
      });
      applyBlockScale(values, start, rowElements, await loadedScale);
    }
    onRead?.(values);
    return values;
  };

  return {
    name,
    dtype,
    shape,
    file: shard.path,
    readRows,
    read: (signal) => readRows(0, rows, signal),
    async *bytes(chunkBytes = COPY_CHUNK_BYTES) {
      if (!Number.isInteger(chunkBytes) || chunkBytes < 1) {
        throw new RangeError(`Cannot read "${name}" in such chunks: current value is ${chunkBytes} bytes`);
      }
      const total = tensor.end - tensor.begin;
      for (let done = 0; done < total; done += chunkBytes) {
        const chunk = new Uint8Array(Math.min(chunkBytes, total - done));
        await shard.readInto(chunk, position + done, `"${name}"`);
        yield chunk;
      }
    },
  };
}
