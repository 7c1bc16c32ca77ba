/**
 * Finds a checkpoint's weight files, and says what to do where they are something else.
 *
 * @module
 */
import { type Folder, readJsonObject, resolveFile } from "./folder.ts";

/** Name of the index of a sharded checkpoint. */
export const INDEX_FILE = "model.safetensors.index.json";

/** Largest index: about 100 bytes a tensor; mixtures with 100,000 tensors have 10 MB. */
export const MAX_INDEX_BYTES = 100_000_000;

/** Most weight files: the largest public checkpoints have under 200. */
export const MAX_SHARDS = 10_000;

/** A weight file and the tensors that the index expects in it; `undefined`: all that it has. */
export interface ShardLocation {
  /** Name relative to the directory. */
  readonly name: string;
  /** Real path. */
  readonly path: string;
  readonly tensors: ReadonlySet<string> | undefined;
}

/**
 * Explains what a path is that is not a directory of a checkpoint: a hub id, a GGUF or a weight file.
 *
 * @returns The error to throw.
 */
export function notADirectory(path: string, isFile: boolean): Error {
  if (isFile) {
    const what = /\.gguf$/i.test(path)
      ? "it is a GGUF file, whose weights are quantized already: give the Hugging Face directory of the original model"
      : /\.(bin|pt|pth)$/i.test(path)
      ? "it is a pickle, which can run code when read: convert it to safetensors (transformers' save_pretrained does)"
      : "it is a file: give the directory that holds it and its config.json";
    return new TypeError(`Cannot open ${path} as a checkpoint as ${what}`);
  }
  const hub = /^[\w.-]+\/[\w.-]+$/.test(path) && !path.startsWith(".")
    ? ` If it is a model's id on the hub, download it first (hf download ${path} --local-dir ${path.split("/")[1]}) ` +
      `and give that directory.`
    : " Give a Hugging Face directory with config.json and *.safetensors.";
  return new Deno.errors.NotFound(`Cannot open ${path} as a checkpoint as there is no such directory.${hub}`);
}

/**
 * Weight files of a directory: `model.safetensors`, or those that the index names.
 *
 * @throws {TypeError} when there are none, naming what is there instead and the way out.
 * @throws {RangeError} when the index points outside the directory or names too many files.
 * @throws {SyntaxError} when the index is malformed.
 */
export async function locateShards(folder: Folder): Promise<readonly ShardLocation[]> {
  const single = await resolveFile(folder, "model.safetensors");
  if (single !== undefined) return [{ name: "model.safetensors", path: single, tensors: undefined }];
  const index = await readJsonObject(folder, INDEX_FILE, MAX_INDEX_BYTES);
  if (index === undefined) throw await noWeights(folder);
  const shards = new Map<string, Set<string>>();
  const map = index.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new SyntaxError(`Cannot read ${folder.path}/${INDEX_FILE} as "weight_map" must be an object`);
  }
  for (const [tensor, shard] of Object.entries(map)) {
    if (typeof shard !== "string") {
      throw new SyntaxError(`Cannot read ${folder.path}/${INDEX_FILE} as the file of "${tensor}" must be a string`);
    }
    const names = shards.get(shard);
    if (names !== undefined) names.add(tensor);
    else shards.set(shard, new Set([tensor]));
    if (shards.size > MAX_SHARDS) {
      throw new RangeError(`Cannot read ${folder.path}/${INDEX_FILE} as it names more than ${MAX_SHARDS} files`);
    }
  }
  const located: ShardLocation[] = [];
  for (const [name, tensors] of [...shards].sort(([x], [y]) => x < y ? -1 : 1)) {
    const path = await resolveFile(folder, name);
    if (path === undefined) {
      throw new Deno.errors.NotFound(
        `Cannot open ${folder.path} as the weight file ${name} that its index names is missing: ` +
          `download the rest (it holds ${tensors.size} tensors, ${[...tensors][0]} among them)`,
      );
    }
    if (!name.endsWith(".safetensors")) {
      throw new TypeError(`Cannot read ${name} of ${folder.path} as safetensors: the index must name *.safetensors`);
    }
    located.push({ name, path, tensors });
  }
  return located;
}

async function noWeights(folder: Folder): Promise<Error> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(folder.path)) names.push(entry.name);
  names.sort();
  const found = (pattern: RegExp) => names.find((name) => pattern.test(name));
  const pickle = found(/\.(bin|pt|pth|msgpack|h5)$/i);
  const gguf = found(/\.gguf$/i);
  const stray = found(/\.safetensors$/i);
  const way = found(/^adapter_config\.json$/)
    ? "it is an adapter: merge it into its base model first (peft's merge_and_unload, then save_pretrained)"
    : stray !== undefined
    ? `it has ${stray} but neither model.safetensors nor ${INDEX_FILE}: download the missing file`
    : gguf !== undefined
    ? `it has ${gguf}, whose weights are quantized already: give the Hugging Face directory of the original model`
    : pickle !== undefined
    ? `it has ${pickle}, a format that is not read here (pickles can run code): convert it to safetensors ` +
      `(transformers' save_pretrained does)`
    : "it has no *.safetensors";
  return new TypeError(`Cannot open ${folder.path} as a checkpoint as ${way}`);
}
