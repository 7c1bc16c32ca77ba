/**
 * `dbf export`: an artefact, or a checkpoint with all layers dense, to a deployable directory.
 *
 * @module
 */
import { builtinStages } from "../../plugins/mod.ts";
import { viewCheckpoint } from "../artefact/checkpoint_view.ts";
import { describeArtefact } from "../artefact/describe.ts";
import { isArtefact, openArtefact } from "../artefact/reader.ts";
import type { ArtefactReader } from "../artefact/types.ts";
import { openCheckpoint } from "../checkpoint/open.ts";
import { exportModel } from "../export/export_model.ts";
import { loadPlugins } from "../recipe/plugin_loader.ts";
import { resolveStage } from "../recipe/resolve.ts";
import { truncateBlocks } from "../model/describe.ts";
import type { Command } from "./command.ts";
import { whileReadingInput } from "./errors.ts";
import { parseBlocks, TABLE_FLAGS, tablesFromFlags } from "./recipe_flags.ts";
import { renderTable } from "./table.ts";
import { formatBytes } from "./units.ts";

/** The command. */
export const exportCommand: Command = {
  name: "export",
  summary: "write a deployable directory from an OUT, or from a checkpoint with all layers dense",
  description: "Writes the whole decoder, tokenizer and configuration, without factorizing anything again.",
  positional: [
    { name: "SRC", help: "what compress wrote, or a Hugging Face directory" },
    { name: "DIR", help: "directory to make" },
  ],
  flags: {
    target: { kind: "text", value: "NAME", help: "what to write (default onnx)" },
    dtype: { kind: "text", choices: ["f32", "f16"], help: "type of what is dense and of activations (default f32)" },
    ...TABLE_FLAGS,
    blocks: { kind: "text", value: "FIRST-LAST", help: "make a model of these decoder blocks only, e.g. 0-1" },
    overwrite: { kind: "switch", help: "replace an earlier export in DIR" },
    plugin: { kind: "list", value: "FILE|npm:NAME", help: "load targets of others" },
  },
  examples: [
    ["dbf export out deploy --dtype f16", "the finished run in out, in half precision"],
    ["dbf export out small --embedding 8", "with the embedding in codes of 8 bits"],
    ["dbf export ./SmolLM2-135M dense", "the full-precision model as ONNX"],
  ],
  async run({ positional: [from, directory], flags, output, signal }) {
    const [source, target] = await whileReadingInput(async () => {
      using plugins = await loadPlugins(flags.list("plugin"), { builtins: builtinStages });
      const choice = { use: flags.text("target") ?? "onnx", options: {} };
      const target = resolveStage("target", choice, [...builtinStages, ...plugins], "--target");
      return [await openSource(from, signal), target] as const;
    });
    using _ = source;
    const model = await whileReadingInput(async () => {
      const blocks = parseBlocks(flags.text("blocks"));
      const whole = await describeArtefact(source);
      return blocks === undefined ? whole : truncateBlocks(whole, blocks);
    });
    const result = await exportModel({
      source,
      model,
      directory,
      target: target.stage,
      dtype: flags.text("dtype") === "f16" ? "f16" : "f32",
      tables: tablesFromFlags(flags),
      overwrite: flags.on("overwrite"),
      signal,
      onEvent: output.event,
    });
    output.result(result, () => {
      const rows = result.files.map(({ name, bytes }) => [name, formatBytes(bytes)]);
      return `${renderTable([{ title: `in ${result.directory}` }, { title: "size", align: "right" }], rows)}`;
    });
  },
};

async function openSource(path: string, signal: AbortSignal): Promise<ArtefactReader> {
  return await isArtefact(path) ? await openArtefact(path) : viewCheckpoint(await openCheckpoint(path, { signal }));
}
