/**
 * From an artefact, or a checkpoint seen as one, to a directory that can be deployed.
 *
 * @module
 */
import * as v from "valibot";
import type { Runtime } from "../../kernels/runtime/types.ts";
import type { ArtefactReader } from "../artefact/types.ts";
import type { TableOptions } from "../model/tables.ts";
import type { ModelDescription } from "../model/types.ts";
import type { DbfEvent } from "../stream/events.ts";
import type { OptionsSchema, Stage, StageContext } from "../stream/stage.ts";
import { type ExportResult, writeExport } from "./write_export.ts";

/** What to export. */
export interface ExportOptions<S extends OptionsSchema = OptionsSchema> {
  /** Committed layers, or a checkpoint viewed as an artefact. */
  readonly source: ArtefactReader;
  /** Its decoder; `describeArtefact(source)` gives it. Fewer blocks than the source has make a shorter model. */
  readonly model: ModelDescription;
  /** Directory to make. */
  readonly directory: string;
  readonly target: Stage<"target", S>;
  /** Options of the target, unparsed. */
  readonly options?: unknown;
  /** Type of what stays dense and of activations. Default f32. */
  readonly dtype?: "f32" | "f16";
  /** Bits of embedding and head, where they are not as everything dense. */
  readonly tables?: TableOptions;
  /** Replace an earlier export in `directory`. Anything else there is refused. */
  readonly overwrite?: boolean;
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: DbfEvent) => void;
  /** For targets that compute; the built-in ones do not. */
  readonly runtime?: Runtime;
}

/**
 * Makes a deployable directory: what the target writes, config.json, tokenizer files, and a model card. Everything is
 * written into a temporary directory beside it, which is renamed at the end: `directory` is whole or not there.
 *
 * @throws {Deno.errors.AlreadyExists} when `directory` holds anything, other than an export that may be overwritten.
 * @throws {DOMException} when the signal ends it; nothing is left.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { openCheckpoint } from "../checkpoint/open.ts";
 * import { describeArtefact } from "../artefact/describe.ts";
 * import { viewCheckpoint } from "../artefact/checkpoint_view.ts";
 * import { onnxTarget } from "../../plugins/target/onnx/stage.ts";
 * import { exportModel } from "./export_model.ts";
 *
 * using source = viewCheckpoint(await openCheckpoint("tests/fixtures/architectures/llama"));
 * const directory = `${await Deno.makeTempDir()}/onnx`;
 * const { files } = await exportModel({ source, model: await describeArtefact(source), directory, target: onnxTarget });
 * assertEquals(files.map(({ name }) => name).includes("model.onnx"), true);
 * await Deno.remove(directory, { recursive: true });
 * ```
 */
export async function exportModel<S extends OptionsSchema>(options: ExportOptions<S>): Promise<ExportResult> {
  const { source, model, directory, target, dtype = "f32", tables, overwrite } = options;
  const signal = options.signal ?? new AbortController().signal;
  const parsed = v.parse(target.options, options.options ?? {});
  const emit = (event: DbfEvent) => options.onEvent?.(event);
  const run = (temporary: string) => {
    const context: StageContext = {
      get runtime(): Runtime {
        if (options.runtime !== undefined) return options.runtime;
        throw new TypeError(`Cannot compute in target ${target.name}: exportModel() was given no runtime`);
      },
      signal,
      scratch: temporary,
      emit,
    };
    return target.run({ source, model, directory: temporary, dtype, tables }, parsed, context);
  };
  return await writeExport({
    source,
    model,
    directory,
    target: target.name,
    dtype,
    tables,
    overwrite,
    signal,
    emit,
    run,
  });
}
