/**
 * Opens a Hugging Face directory: configuration and headers are read and checked, weights stay on disk.
 *
 * @module
 */
import { DEFAULT_SCALE_BLOCK, scaleBlock } from "./block_scale.ts";
import { openFolder, readJsonObject, resolveFile } from "./folder.ts";
import { createTensorHandle } from "./handle.ts";
import { locateShards, notADirectory } from "./locate.ts";
import { nearestNames } from "./nearest.ts";
import { createReadCounter } from "./read_counter.ts";
import {
  LENGTH_BYTES,
  parseSafetensorsHeader,
  safetensorsHeaderLength,
  type SafetensorsTensor,
} from "./safetensors.ts";
import { MAX_HEADER_BYTES, WEIGHT_DTYPES } from "./safetensors_dtype.ts";
import { createShardPool, type ShardFile } from "./shard_file.ts";
import type { CheckpointReader, TensorHandle, WeightDType } from "./types.ts";

/** Files that deployments need beside the weights. */
export const COMPANION_FILES: readonly string[] = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
  "generation_config.json",
];

/** Most header bytes over all shards, twice the largest single header: 200 shards of a 400B model have 20 MB. */
const MAX_TOTAL_HEADER_BYTES = 2 * MAX_HEADER_BYTES;

/** How {@linkcode openCheckpoint} reads. */
export interface CheckpointOptions {
  /** Ends opening early. */
  readonly signal?: AbortSignal;
  /** Most weight files open at once. Default 64. */
  readonly maxOpenFiles?: number;
}

interface Located {
  readonly tensor: SafetensorsTensor;
  readonly shard: ShardFile;
  readonly dataStart: number;
}

/**
 * Opens a Hugging Face directory with config.json and safetensors weights, in one file or many.
 *
 * @param directory Its path. A snapshot in the hub's cache, made of links into its blobs, is fine.
 * @returns Handles by tensor name; dispose of the reader to close its files.
 * @throws {Deno.errors.NotFound} when the directory or a shard is missing; a hub id gets the command to download it.
 * @throws {TypeError} for pickles, GGUF, adapters, a file instead of a directory.
 * @throws {SyntaxError} when a header, config.json or the index is malformed.
 * @throws {RangeError} when a size or offset cannot be, or a name leads out of the directory.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { openCheckpoint } from "./open.ts";
 *
 * using checkpoint = await openCheckpoint("tests/fixtures/tiny-llama");
 * const embedding = checkpoint.tensor("model.embed_tokens.weight");
 * assertEquals(embedding.shape, [2048, 192]);
 * assertEquals((await embedding.readRows(5, 7)).length, 2 * 192);
 * ```
 */
export async function openCheckpoint(directory: string, options: CheckpointOptions = {}): Promise<CheckpointReader> {
  const stat = await Deno.stat(directory).catch(() => undefined);
  if (!stat?.isDirectory) throw notADirectory(directory, stat !== undefined);
  const folder = await openFolder(directory);
  const shards = await locateShards(folder);
  const config = await readJsonObject(folder, "config.json");
  if (config === undefined) {
    throw new Deno.errors.NotFound(
      `Cannot open ${directory} as a checkpoint as config.json is missing: download it beside the weights`,
    );
  }
  const generationConfig = await readJsonObject(folder, "generation_config.json");
  const companions: string[] = [];
  for (const name of COMPANION_FILES) {
    const path = await resolveFile(folder, name);
    // The given path, not the link's target: names matter where files are copied.
    if (path !== undefined) companions.push(`${folder.roots[0]}/${name}`);
  }

  const pool = createShardPool(options.maxOpenFiles);
  try {
    const located = new Map<string, Located>();
    let headerBytes = 0;
    for (const { name: shardName, path, tensors: expected } of shards) {
      options.signal?.throwIfAborted();
      const shard = pool.file(path);
      const header = await readHeader(shard, options.signal, (length) => {
        headerBytes += length;
        if (headerBytes > MAX_TOTAL_HEADER_BYTES) {
          throw new RangeError(`Cannot open ${directory} as its headers exceed ${MAX_TOTAL_HEADER_BYTES} bytes`);
        }
      });
      for (const tensor of header.tensors) {
        if (expected !== undefined && !expected.has(tensor.name)) continue;
        located.set(tensor.name, { tensor, shard, dataStart: header.dataStart });
      }
      for (const name of expected ?? []) {
        if (!located.has(name)) {
          throw new RangeError(
            `Cannot open ${directory} as its index promises tensor "${name}" in ${shardName}, which lacks it`,
          );
        }
      }
    }
    return assemble({ directory, config, generationConfig, companions, located, pool });
  } catch (cause) {
    pool[Symbol.dispose]();
    throw cause;
  }
}

async function readHeader(shard: ShardFile, signal: AbortSignal | undefined, onLength: (length: number) => void) {
  const { size } = await Deno.stat(shard.path);
  const prefix = new Uint8Array(Math.min(LENGTH_BYTES, size));
  await shard.readInto(prefix, 0, "the header's length", signal);
  const length = safetensorsHeaderLength(prefix, size, shard.path);
  onLength(length);
  const json = new Uint8Array(length);
  await shard.readInto(json, LENGTH_BYTES, "the header", signal);
  const dataStart = LENGTH_BYTES + length;
  return { tensors: parseSafetensorsHeader(json, size - dataStart, shard.path).tensors, dataStart };
}

function assemble({ directory, config, generationConfig, companions, located, pool }: {
  readonly directory: string;
  readonly config: Record<string, unknown>;
  readonly generationConfig: Record<string, unknown> | undefined;
  readonly companions: readonly string[];
  readonly located: ReadonlyMap<string, Located>;
  readonly pool: Disposable;
}): CheckpointReader {
  const counter = createReadCounter();
  const tensors = new Map<string, TensorHandle>();
  const block = weightBlock(config);
  for (const [name, { tensor, shard, dataStart }] of located) {
    const { dtype, shape } = tensor;
    if (!WEIGHT_DTYPES.has(dtype)) continue;
    const companion = dtype.startsWith("F8_")
      ? [`${name}_scale_inv`, `${name}_scale`].find((other) => located.has(other))
      : undefined;
    let scale: Parameters<typeof createTensorHandle>[0]["scale"];
    if (companion !== undefined) {
      const other = located.get(companion)!.tensor;
      const sides = shape.length === 2 ? scaleBlock(shape[0], shape[1], other.shape, block) : undefined;
      if (sides === undefined || !WEIGHT_DTYPES.has(other.dtype)) {
        throw new RangeError(
          `Cannot scale "${name}" [${shape}] by "${companion}" in blocks of ${block.join("×")}: ` +
            `current value is ${other.dtype} [${other.shape}]`,
        );
      }
      scale = async (signal) => ({
        blockRows: sides[0],
        blockCols: sides[1],
        scales: await tensors.get(companion)!.read(signal),
      });
    }
    tensors.set(
      name,
      createTensorHandle({
        tensor: { ...tensor, dtype: dtype as WeightDType },
        shard,
        dataStart,
        scale,
        onRead: counter.add,
      }),
    );
  }
  return {
    directory,
    config,
    generationConfig,
    tensors,
    companions,
    tensor(name) {
      const handle = tensors.get(name);
      if (handle !== undefined) return handle;
      const stored = located.get(name)?.tensor;
      if (stored !== undefined) {
        throw new TypeError(
          `Cannot use "${name}" of ${directory} as a weight: its type is ${stored.dtype}. ` +
            `Quantized checkpoints cannot be compressed again: give the original one.`,
        );
      }
      const near = nearestNames(name, tensors.keys());
      throw new Error(
        `Cannot find tensor "${name}" in ${directory}${near.length > 0 ? `: did you mean ${near.join(" or ")}?` : ""}`,
      );
    },
    get bytesRead() {
      return counter.peakBytes;
    },
    [Symbol.dispose]: () => pool[Symbol.dispose](),
  };
}

/** `quantization_config.weight_block_size` of config.json. */
function weightBlock(config: Readonly<Record<string, unknown>>): readonly [number, number] {
  const quantization = config.quantization_config;
  const size = typeof quantization === "object" && quantization !== null && "weight_block_size" in quantization
    ? quantization.weight_block_size
    : undefined;
  if (size === undefined || size === null) return DEFAULT_SCALE_BLOCK;
  if (Array.isArray(size) && size.length === 2 && size.every((side) => Number.isSafeInteger(side) && side > 0)) {
    return [size[0], size[1]];
  }
  throw new RangeError(
    `Cannot use quantization_config.weight_block_size of config.json, which must be two positive numbers: ` +
      `current value is ${JSON.stringify(size).slice(0, 80)}`,
  );
}
