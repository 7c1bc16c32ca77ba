/**
 * Opens anything that can generate: a finished run, an exported directory, or a full-precision checkpoint.
 *
 * @module
 */
import { dirname, join } from "node:path";
import type { Runtime, Session } from "../../kernels/runtime/types.ts";
import { onnxTarget } from "../../plugins/target/onnx/stage.ts";
import { viewCheckpoint } from "../artefact/checkpoint_view.ts";
import { describeArtefact } from "../artefact/describe.ts";
import { isArtefact } from "../artefact/reader.ts";
import { openFolder, readJsonObject } from "../checkpoint/folder.ts";
import { openCheckpoint } from "../checkpoint/open.ts";
import { exportModel } from "../export/export_model.ts";
import type { DbfEvent } from "../stream/events.ts";
import { openDecoder } from "./decoder_session.ts";
import type { LanguageModel } from "./language_model.ts";
import { loadTokenizer, type TextTokenizer } from "./tokenizer.ts";

/** Name of the graph in an exported directory. */
const GRAPH_FILE = "model.onnx";
/** How a model is opened. */
export interface OpenModelOptions {
  /** Type that a full-precision checkpoint is exported in. Default `"f32"`. */
  readonly dtype?: "f32" | "f16";
  readonly signal?: AbortSignal;
  /** Told about the export of a checkpoint. */
  readonly onEvent?: (event: DbfEvent) => void;
}

/**
 * Opens a model for generation and evaluation. A full-precision checkpoint is first exported into a temporary
 * directory, which takes the model's size in free disk and is removed when the model is disposed.
 *
 * @param path What `compress` wrote, what `export` wrote, a Hugging Face directory, or an `.onnx` file.
 * @param runtime Where it will run; not closed with the model.
 * @throws {Deno.errors.NotFound} when there is no model at `path`.
 * @throws {TypeError} when it is one that cannot be run, with what to do.
 */
export async function openModel(
  path: string,
  runtime: Runtime,
  options: OpenModelOptions = {},
): Promise<LanguageModel> {
  const found = await findGraph(path);
  if (found !== undefined) return await loadModel(path, found, runtime, undefined);
  const temporary = await Deno.makeTempDir({ prefix: "dbf-" });
  try {
    options.onEvent?.({
      type: "notice",
      message: `"${path}" is a checkpoint: exporting it in ${options.dtype ?? "f32"} to a temporary directory`,
    });
    using source = viewCheckpoint(await openCheckpoint(path, { signal: options.signal }));
    const { directory } = await exportModel({
      source,
      model: await describeArtefact(source),
      directory: join(temporary, "onnx"),
      target: onnxTarget,
      dtype: options.dtype,
      signal: options.signal,
      onEvent: options.onEvent,
    });
    return await loadModel(path, join(directory, GRAPH_FILE), runtime, temporary);
  } catch (error) {
    await Deno.remove(temporary, { recursive: true });
    throw error;
  }
}

/** The graph that `path` stands for; `undefined` for a checkpoint, which has none yet. */
async function findGraph(path: string): Promise<string | undefined> {
  const info = await Deno.stat(path).catch(() => undefined);
  if (info === undefined) {
    throw new Deno.errors.NotFound(
      `Cannot open "${path}" as a model: there is no such directory; models are read from disk, a hub's name is not enough`,
    );
  }
  if (info.isFile) {
    if (path.endsWith(".onnx")) return path;
    throw new TypeError(`Cannot open "${path}" as a model: it is a file; give its directory`);
  }
  for (const candidate of [join(path, "onnx", GRAPH_FILE), join(path, GRAPH_FILE)]) {
    if (await isFile(candidate)) return candidate;
  }
  if (await isArtefact(path)) {
    throw new TypeError(
      `Cannot run "${path}" as it was not exported: run "dbf export ${path} ${join(path, "onnx")}" first`,
    );
  }
  const names = await Array.fromAsync(Deno.readDir(path), ({ name }) => name);
  if (names.some((name) => name.endsWith(".safetensors") || name === "config.json")) return undefined;
  throw new Deno.errors.NotFound(
    `Cannot open "${path}" as a model: it has neither ${GRAPH_FILE} nor config.json with *.safetensors`,
  );
}

async function isFile(path: string): Promise<boolean> {
  return await Deno.stat(path).then((info) => info.isFile, () => false);
}

async function loadModel(
  path: string,
  graph: string,
  runtime: Runtime,
  temporary: string | undefined,
): Promise<LanguageModel> {
  const directory = dirname(graph);
  const folder = await openFolder(directory);
  const config = await readJsonObject(folder, "config.json") ?? {};
  const generation = await readJsonObject(folder, "generation_config.json") ?? {};
  const session: Session = await runtime.load(graph, { name: path });
  const decoder = await closingOnError(session, () => openDecoder(session, runtime));
  let tokenizer: Promise<TextTokenizer> | undefined;
  const positions = config.max_position_embeddings;
  return {
    path,
    graph,
    contextLength: typeof positions === "number" && positions > 0 ? positions : Infinity,
    vocabularySize: decoder.vocabularySize,
    eos: [...new Set([...idsOf(generation.eos_token_id), ...idsOf(config.eos_token_id)])],
    decoder,
    tokenizer: () => tokenizer ??= loadTokenizer(directory),
    async [Symbol.asyncDispose]() {
      await session[Symbol.asyncDispose]();
      if (temporary !== undefined) await Deno.remove(temporary, { recursive: true });
    },
  };
}

async function closingOnError<T>(session: Session, body: () => T): Promise<T> {
  try {
    return body();
  } catch (error) {
    await session[Symbol.asyncDispose]();
    throw error;
  }
}

/** One id, a list of ids, or nothing. */
function idsOf(value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter((id): id is number => Number.isInteger(id));
}
