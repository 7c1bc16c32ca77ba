/**
 * `dbf inspect`: what is in a checkpoint, a finished run, a safetensors file or an ONNX file.
 *
 * @module
 */
import { join } from "node:path";
import { isArtefact, openArtefact } from "../artefact/reader.ts";
import { openCheckpoint } from "../checkpoint/open.ts";
import { LENGTH_BYTES, parseSafetensorsHeader, safetensorsHeaderLength } from "../checkpoint/safetensors.ts";
import { describeCheckpoint } from "../model/check.ts";
import { elementsOf } from "../plan/sizes.ts";
import type { Command } from "./command.ts";
import { usageError, whileReadingInput } from "./errors.ts";
import { inspectOnnx, renderOnnx } from "./inspect_onnx.ts";
import { renderPairs, renderTable } from "./table.ts";
import { digits3, formatBytes, formatCount } from "./units.ts";

/** What `inspect` finds: data for `--json`, and the same as text. */
interface Finding {
  readonly document: Readonly<Record<string, unknown>>;
  render(): string;
}

/** The command. */
export const inspectCommand: Command = {
  name: "inspect",
  summary: "what is in a checkpoint, an OUT, a safetensors file or an ONNX file",
  description: "Reads headers, manifests and graphs; no weight is read.",
  readsOnly: true,
  positional: [{ name: "PATH", help: "a directory, a .safetensors file or an .onnx file" }],
  flags: {},
  examples: [
    ["dbf inspect out", "layers of a finished run, with their kinds, bits and errors"],
    ["dbf inspect out/onnx/model.onnx", "operators, inputs and outputs of the graph"],
  ],
  async run({ positional: [path], output, signal }) {
    const finding = await whileReadingInput(() => inspectPath(path, signal));
    output.result(finding.document, () => finding.render());
  },
};

async function inspectPath(path: string, signal: AbortSignal): Promise<Finding> {
  const info = await Deno.stat(path).catch(() => undefined);
  if (info === undefined) throw usageError(`Cannot inspect "${path}": there is no such file or directory`);
  if (info.isFile) {
    if (path.endsWith(".onnx")) return await inspectGraph(path);
    if (path.endsWith(".safetensors")) return await inspectSafetensors(path);
    throw usageError(`Cannot inspect "${path}": give a directory, a .safetensors file or an .onnx file`);
  }
  if (await isArtefact(path)) return await inspectArtefact(path);
  const names = await Array.fromAsync(Deno.readDir(path), ({ name }) => name);
  if (names.some((name) => name.endsWith(".safetensors"))) return await inspectCheckpoint(path, signal);
  const graph = names.filter((name) => name.endsWith(".onnx")).sort()[0];
  if (graph !== undefined) return await inspectGraph(join(path, graph));
  throw usageError(`Cannot inspect "${path}": it holds neither *.safetensors nor *.onnx`);
}

async function inspectGraph(path: string): Promise<Finding> {
  const summary = await inspectOnnx(path);
  return { document: { kind: "onnx", path, ...summary }, render: () => renderOnnx(path, summary) };
}

async function inspectSafetensors(path: string): Promise<Finding> {
  using file = await Deno.open(path);
  const { size } = await file.stat();
  const prefix = await readExactly(file, Math.min(LENGTH_BYTES, size));
  const length = safetensorsHeaderLength(prefix, size, path);
  const header = parseSafetensorsHeader(await readExactly(file, length), size - LENGTH_BYTES - length, path);
  const tensors = header.tensors.map(({ name, dtype, shape, begin, end }) => ({
    name,
    dtype,
    shape,
    bytes: end - begin,
  }));
  const { metadata } = header;
  return {
    document: { kind: "safetensors", path, bytes: size, metadata, tensors },
    render: () =>
      [
        renderPairs([["file", `${path} (${formatBytes(size)})`], ...Object.entries(metadata)]),
        tensorTable(tensors),
      ].join("\n\n"),
  };
}

async function readExactly(file: Deno.FsFile, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let filled = 0; filled < length;) {
    const count = await file.read(bytes.subarray(filled));
    if (count === null) return bytes.subarray(0, filled);
    filled += count;
  }
  return bytes;
}

async function inspectCheckpoint(path: string, signal: AbortSignal): Promise<Finding> {
  using checkpoint = await openCheckpoint(path, { signal });
  const tensors = [...checkpoint.tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const parameters = tensors.reduce((sum, { shape }) => sum + elementsOf(shape), 0);
  let model: ReturnType<typeof describeCheckpoint> | undefined;
  let problem: string | undefined;
  try {
    model = describeCheckpoint(checkpoint);
  } catch (error) {
    problem = (error as Error).message;
  }
  const dtypes = [...new Set(tensors.map(({ dtype }) => dtype))].join(", ");
  const about: (readonly [string, string])[] = model === undefined ? [["cannot be compressed", problem!]] : [
    ["model", `${model.architecture}, ${model.blocks.length} blocks, context ${model.maxPositions}`],
    ["sizes", `hidden ${model.hiddenSize}, intermediate ${model.intermediateSize}, vocabulary ${model.vocabularySize}`],
    ["attention", `${model.heads} heads of ${model.headDim} over ${model.kvHeads} key/value heads`],
  ];
  const { companions } = checkpoint;
  return {
    document: { kind: "checkpoint", path, architecture: model?.architecture, problem, parameters, companions, tensors },
    render: () =>
      [
        renderPairs([
          ["checkpoint", path],
          ...about,
          ["parameters", `${formatCount(parameters)} in ${tensors.length} tensors (${dtypes})`],
          ["beside it", companions.map((companion) => companion.split("/").at(-1)).join(", ") || "nothing"],
        ]),
        tensorTable(tensors),
      ].join("\n\n"),
  };
}

async function inspectArtefact(path: string): Promise<Finding> {
  using artefact = await openArtefact(path);
  const { architecture, blocks, fingerprint } = artefact.manifest;
  const entries = [...artefact.entries.values()];
  const bytes = entries.reduce((sum, entry) => sum + entry.bytes, 0);
  const layers = entries.filter(({ kind }) => kind !== "dense");
  const number = (value: unknown) => typeof value === "number" ? value : undefined;
  return {
    document: { kind: "artefact", path, architecture, blocks, bytes, fingerprint, entries },
    render: () =>
      [
        renderPairs([
          ["artefact", `${path} (${formatBytes(bytes)})`],
          ["model", architecture + (blocks === undefined ? "" : `, blocks ${blocks[0]} to ${blocks[1]}`)],
          ["entries", `${layers.length} compressed layers, ${entries.length - layers.length} dense tensors`],
        ]),
        renderTable(
          [
            { title: "layer" },
            { title: "kind" },
            { title: "shape", align: "right" },
            { title: "k", align: "right" },
            { title: "stored bits", align: "right" },
            { title: "error", align: "right" },
            { title: "generation", align: "right" },
          ],
          layers.map(({ name, kind, shape, attributes, bytes, generation }) => [
            name.replace(/\.weight$/, ""),
            kind === "nbits" ? `nbits ${attributes.bits}/${attributes.group}` : kind,
            shape.join(" × "),
            String(number(attributes.rank) ?? ""),
            digits3(8 * bytes / elementsOf(shape)),
            number(attributes.weightedError)?.toPrecision(3) ?? "",
            String(generation),
          ]),
        ),
      ].join("\n\n"),
  };
}

function tensorTable(
  tensors: readonly { readonly name: string; readonly dtype: string; readonly shape: readonly number[] }[],
): string {
  return renderTable(
    [{ title: "tensor" }, { title: "type" }, { title: "shape", align: "right" }],
    tensors.map(({ name, dtype, shape }) => [name, dtype, shape.join(" × ")]),
  );
}
