/**
 * Models on disk: the `.onnx` file and, beside it, one file with the big initializers, written as a stream.
 *
 * @module
 */
import type { TensorData } from "../../kernels/runtime/types.ts";
import { encodeModel, type EncodeOptions, type ExternalPlace } from "./encode.ts";
import type { ExternalSource, Graph } from "./types.ts";

/** Tensors from this size begin at a page, so that runtimes can map them. */
const PAGE_ALIGNED_BYTES = 1 << 20;
/** Page size to align to (Linux and Windows on x64; macOS's 16384 maps too, with an offset). */
const PAGE_BYTES = 4096;
/** Alignment of smaller tensors: one cache line. */
const LINE_BYTES = 64;
/** Streams below this are embedded in the `.onnx` file: a separate read costs more. */
const EMBED_BELOW_BYTES = 1024;

/** How a model is written. */
export interface WriteOptions extends EncodeOptions {
  /** Ends the writing; temporary files are removed. */
  readonly signal?: AbortSignal;
  /** Called after every chunk. */
  readonly onProgress?: (
    progress: { readonly tensor: string; readonly bytesDone: number; readonly bytesTotal: number },
  ) => void;
}

/** What was written. */
export interface WrittenModel {
  /** Paths, the model first. */
  readonly files: readonly string[];
  readonly modelBytes: number;
  /** 0 when everything fitted in the model file. */
  readonly dataBytes: number;
}

function align(offset: number, byteLength: number): number {
  const to = byteLength >= PAGE_ALIGNED_BYTES ? PAGE_BYTES : LINE_BYTES;
  return Math.ceil(offset / to) * to;
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
}

/** Chunks of a source, checked against its size. */
async function* checked(name: string, source: ExternalSource, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  let done = 0;
  for await (const chunk of source.chunks()) {
    signal?.throwIfAborted();
    done += chunk.length;
    if (done > source.byteLength) {
      throw new RangeError(`Cannot write "${name}" as ${source.byteLength} bytes: its source gives more`);
    }
    yield chunk;
  }
  if (done !== source.byteLength) {
    throw new RangeError(`Cannot write "${name}" as ${source.byteLength} bytes: its source gave ${done}`);
  }
}

/** Small external sources, read into memory, with the graph's constants. */
async function embedSmall(graph: Graph, signal?: AbortSignal): Promise<Graph> {
  const constants = new Map(graph.constants);
  const externals = new Map(graph.externals);
  for (const [name, { value, source }] of graph.externals) {
    if (source.byteLength >= EMBED_BELOW_BYTES) continue;
    const bytes = new Uint8Array(source.byteLength);
    let at = 0;
    for await (const chunk of checked(name, source, signal)) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    const data: TensorData = bytes;
    constants.set(name, { value, data });
    externals.delete(name);
  }
  return { ...graph, constants, externals };
}

/** Makes a rename durable; directories cannot be synchronized everywhere. */
async function syncDirectory(directory: string): Promise<void> {
  try {
    using handle = await Deno.open(directory, { read: true });
    await handle.sync();
  } catch {
    // Windows has no directory handles; the files themselves are on disk.
  }
}

/**
 * Writes a graph as `fileName` in `directory`, with the initializers that come from streams in `fileName + ".data"`
 * (ONNX external data: https://onnx.ai/onnx/repo-docs/ExternalData.html). Holds one chunk at a time; files beyond 2 GiB
 * are fine. Initializers with one source share its bytes. Both files are written under temporary names, synchronized, then renamed, the model last.
 *
 * @param directory Exists.
 * @param fileName For example `"model.onnx"`.
 * @throws {RangeError} when a source gives more or fewer bytes than it said.
 */
export async function writeModel(
  graph: Graph,
  directory: string,
  fileName: string,
  options: WriteOptions = {},
): Promise<WrittenModel> {
  const { signal, onProgress } = options;
  const small = await embedSmall(graph, signal);
  const location = `${fileName}.data`;
  const places = new Map<string, ExternalPlace>(), known = new Map<ExternalSource, ExternalPlace>();
  let end = 0, bytesTotal = 0;
  for (const [name, { source }] of small.externals) {
    const same = known.get(source);
    if (same !== undefined) {
      places.set(name, same);
      continue;
    }
    const offset = align(end, source.byteLength);
    const place = { location, offset, length: source.byteLength };
    places.set(name, place);
    known.set(source, place);
    end = offset + source.byteLength;
    bytesTotal += source.byteLength;
  }
  const model = encodeModel(small, { ...options, places });
  const temporary = `.tmp-${crypto.randomUUID().slice(0, 8)}`;
  const modelPath = `${directory}/${fileName}`, dataPath = `${directory}/${location}`;
  try {
    if (places.size > 0) {
      using file = await Deno.open(dataPath + temporary, { write: true, createNew: true });
      let position = 0, bytesDone = 0;
      for (const [name, { source }] of small.externals) {
        if (!known.delete(source)) continue; // written for another tensor
        const { offset } = places.get(name)!;
        await writeAll(file, new Uint8Array(offset - position));
        for await (const chunk of checked(name, source, signal)) {
          await writeAll(file, chunk);
          bytesDone += chunk.length;
          onProgress?.({ tensor: name, bytesDone, bytesTotal });
        }
        position = offset + source.byteLength;
      }
      await file.sync();
    }
    {
      using file = await Deno.open(modelPath + temporary, { write: true, createNew: true });
      await writeAll(file, model);
      await file.sync();
    }
    if (places.size > 0) await Deno.rename(dataPath + temporary, dataPath);
    await Deno.rename(modelPath + temporary, modelPath);
    await syncDirectory(directory);
  } catch (error) {
    for (const path of [dataPath, modelPath]) await Deno.remove(path + temporary).catch(() => undefined);
    throw error;
  }
  return { files: places.size > 0 ? [modelPath, dataPath] : [modelPath], modelBytes: model.length, dataBytes: end };
}
