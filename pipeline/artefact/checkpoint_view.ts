/**
 * A checkpoint seen as an artefact whose layers are all dense, so that targets need to know one kind of source only.
 *
 * @module
 */
import { DTYPE_BYTES } from "../checkpoint/safetensors_dtype.ts";
import type { CheckpointReader } from "../checkpoint/types.ts";
import type { ArtefactEntry, ArtefactReader } from "./types.ts";

/**
 * Views a checkpoint as an artefact. Disposing the view closes the checkpoint.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { openCheckpoint } from "../checkpoint/open.ts";
 * import { viewCheckpoint } from "./checkpoint_view.ts";
 *
 * using source = viewCheckpoint(await openCheckpoint("tests/fixtures/tiny-llama"));
 * assertEquals(source.entries.get("model.norm.weight")?.kind, "dense");
 * ```
 */
export function viewCheckpoint(checkpoint: CheckpointReader): ArtefactReader {
  const entries = new Map<string, ArtefactEntry>();
  for (const [name, { shape, dtype }] of checkpoint.tensors) {
    const bytes = shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]);
    entries.set(name, { name, kind: "dense", shape, generation: 0, attributes: {}, bytes });
  }
  return {
    directory: checkpoint.directory,
    config: checkpoint.config,
    entries,
    companions: checkpoint.companions,
    layer: (name) =>
      Promise.reject(new TypeError(`Cannot read "${name}" of ${checkpoint.directory} as a packed layer: it is dense`)),
    readRows: (name, start, end) => checkpoint.tensor(name).readRows(start, end),
    [Symbol.dispose]: () => checkpoint[Symbol.dispose](),
  };
}
