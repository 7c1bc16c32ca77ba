/**
 * Opens an artefact. Its manifest and files may come from anywhere: names stay inside the folder, sizes are checked
 * before anything is allocated.
 *
 * @module
 */
import { basename, join } from "node:path";
import { MAX_CONFIG_BYTES, openFolder, readJsonObject, resolveFile } from "../checkpoint/folder.ts";
import { createTensorHandle } from "../checkpoint/handle.ts";
import { LENGTH_BYTES, parseSafetensorsHeader } from "../checkpoint/safetensors.ts";
import { WEIGHT_DTYPES } from "../checkpoint/safetensors_dtype.ts";
import { createShardPool } from "../checkpoint/shard_file.ts";
import type { TensorHandle, WeightDType } from "../checkpoint/types.ts";
import { DENSE_TENSOR } from "./entry_file.ts";
import { LAYERS_FOLDER, MANIFEST_FILE, type ManifestContent, MAX_MANIFEST_BYTES, parseManifest } from "./manifest.ts";
import { entryHeaderLength, readPackedFile } from "./packed_file.ts";
import type { ArtefactEntry, ArtefactReader } from "./types.ts";

/** What {@linkcode openArtefact} gives beside the contract. */
export interface OpenedArtefact extends ArtefactReader {
  readonly manifest: ManifestContent;
  /** Handle on a dense entry. */
  tensor(name: string): Promise<TensorHandle>;
}

/** Whether `directory` holds a finished artefact. */
export async function isArtefact(directory: string): Promise<boolean> {
  return await Deno.stat(join(directory, MANIFEST_FILE)).then(({ isFile }) => isFile, () => false);
}

/**
 * Opens the artefact in `directory`.
 *
 * @throws {Error} when there is no manifest there: the run was not finished.
 * @throws {TypeError} when the manifest is not one, naming the field.
 * @throws {RangeError} when a file leads out of the folder or is not as large as the manifest says.
 *
 * Packed layers are checked against the manifest's hash when they are read; dense tensors are read by rows and are
 * checked by size and header only.
 */
export async function openArtefact(directory: string): Promise<OpenedArtefact> {
  if (!await isArtefact(directory)) {
    throw new Error(
      `Cannot open ${directory} as an artefact as it has no ${MANIFEST_FILE}: run compress again to finish it`,
    );
  }
  const folder = await openFolder(directory);
  const path = join(directory, MANIFEST_FILE);
  const manifest = parseManifest(await readJsonObject(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES), path);
  const config = await readJsonObject(folder, "config.json", MAX_CONFIG_BYTES);
  if (config === undefined) throw new Error(`Cannot open ${directory} as an artefact as it has no config.json`);
  const companions: string[] = [];
  for (const name of manifest.companions) {
    const file = await resolveFile(folder, name);
    if (file === undefined) throw new Error(`Cannot open ${directory} as an artefact as ${name} is missing`);
    companions.push(file);
  }
  const records = new Map(manifest.entries.map((entry) => [entry.name, entry]));
  const pool = createShardPool();

  const find = (name: string, dense: boolean) => {
    const entry = records.get(name);
    if (entry === undefined) throw new Error(`Cannot find "${name}" in ${directory}: its manifest has no such entry`);
    if ((entry.kind === "dense") !== dense) {
      throw new TypeError(
        `Cannot read "${name}" of ${directory} as ${dense ? "rows" : "a packed layer"}: it is ${entry.kind}`,
      );
    }
    return entry;
  };
  const locate = async (name: string, dense: boolean) => {
    const entry = find(name, dense);
    const file = await resolveFile(folder, `${LAYERS_FOLDER}/${basename(entry.file)}`);
    if (file === undefined) throw new Error(`Cannot read "${name}" of ${directory} as ${entry.file} is missing`);
    const { size } = await Deno.stat(file);
    if (size !== entry.bytes) {
      throw new RangeError(
        `Cannot read "${name}" from ${file} as it must have ${entry.bytes} bytes: current value is ${size}`,
      );
    }
    return { entry, file, size };
  };
  const handles = new Map<string, Promise<TensorHandle>>();
  const openDense = async (name: string): Promise<TensorHandle> => {
    const { entry, file, size } = await locate(name, true);
    const shard = pool.file(file);
    const prefix = new Uint8Array(Math.min(LENGTH_BYTES, size));
    await shard.readInto(prefix, 0, "the header's length");
    const length = entryHeaderLength(prefix, size, file);
    const json = new Uint8Array(length);
    await shard.readInto(json, LENGTH_BYTES, "the header");
    const dataStart = LENGTH_BYTES + length;
    const { tensors: [tensor] } = parseSafetensorsHeader(json, size - dataStart, file);
    if (
      tensor?.name !== DENSE_TENSOR || !WEIGHT_DTYPES.has(tensor.dtype) || String(tensor.shape) !== String(entry.shape)
    ) {
      throw new TypeError(
        `Cannot read "${name}" from ${file} as it must hold one float tensor "${DENSE_TENSOR}" [${entry.shape}]: ` +
          `current value is ${tensor === undefined ? "none" : `${tensor.dtype} [${tensor.shape}]`}`,
      );
    }
    return createTensorHandle({ tensor: { ...tensor, name, dtype: tensor.dtype as WeightDType }, shard, dataStart });
  };
  const tensor = (name: string): Promise<TensorHandle> => {
    let handle = handles.get(name);
    if (handle === undefined) handles.set(name, handle = openDense(name));
    return handle;
  };

  return {
    directory,
    config,
    manifest,
    companions,
    entries: new Map<string, ArtefactEntry>(
      manifest.entries.map(({ file: _file, sha256: _sha256, ...entry }) => [entry.name, entry]),
    ),
    async layer(name) {
      const { entry, file } = await locate(name, false);
      return await readPackedFile(file, entry);
    },
    tensor,
    readRows: async (name, start, end) => await (await tensor(name)).readRows(start, end),
    [Symbol.dispose]: () => pool[Symbol.dispose](),
  };
}
