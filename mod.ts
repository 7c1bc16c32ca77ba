/**
 * dbf compresses the linear layers of decoder language models into pairs of sign matrices with three scale vectors
 * (double binary factorization) and writes ONNX models that any ONNX Runtime runs. Run as a program it is the command
 * line; imported it is every part of the pipeline.
 *
 * @example Plan a compression without computing anything
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { describeCheckpoint, inventory, openCheckpoint, planRun } from "./mod.ts";
 *
 * using checkpoint = await openCheckpoint("tests/fixtures/tiny-llama");
 * const report = planRun({ inventory: inventory(describeCheckpoint(checkpoint)), bitsPerWeight: 2 });
 * assertEquals(report.layers.length, 28);
 * ```
 *
 * @module
 */

// Whole runs.
export { compress } from "./pipeline/compress.ts";
export { DEFAULT_BITS_PER_WEIGHT } from "./pipeline/compress_allocation.ts";
export type { CompressOptions } from "./pipeline/start_run.ts";
export type { CompressedLayer, CompressReport } from "./pipeline/compress_report.ts";
export { exportModel, type ExportOptions } from "./pipeline/export/export_model.ts";
export type { ExportResult } from "./pipeline/export/write_export.ts";
export { evaluate, type EvaluateOptions, type EvaluationResult } from "./pipeline/evaluate/evaluate.ts";
export {
  type FinishReason,
  generate,
  generateBatch,
  type GeneratedToken,
  type GenerateOptions,
} from "./pipeline/evaluate/generate.ts";
export type { LanguageModel } from "./pipeline/evaluate/language_model.ts";
export { openModel, type OpenModelOptions } from "./pipeline/evaluate/open_model.ts";
export { loadTokenizer, type TextTokenizer } from "./pipeline/evaluate/tokenizer.ts";

// Recipes and stages.
export type { Recipe, RecipeInput, StageSelection, StageSelectionInput } from "./pipeline/recipe/schema.ts";
export { loadRecipe, parseRecipe } from "./pipeline/recipe/parse.ts";
export {
  type AnyStage,
  checkStage,
  type LoadedStages,
  loadPlugins,
  type PluginOptions,
} from "./pipeline/recipe/plugin_loader.ts";
export { type ResolvedStage, type ResolvedStages, resolveStage, resolveStages } from "./pipeline/recipe/resolve.ts";
export { builtinStages } from "./plugins/mod.ts";
export {
  type Allocated,
  type AllocationBudget,
  type DbfFactors,
  defineStage,
  type Factors,
  type FactorsKind,
  type LayerImportance,
  type LayerJob,
  type LayerShape,
  type LayerStorage,
  type NbitsFactors,
  type OptionsSchema,
  type PackedLayer,
  type PackedTensor,
  type Proposal,
  type SignFactors,
  type SignMatrix,
  type Stage,
  STAGE_SCOPES,
  type StageContext,
  type StageEstimate,
  type StageFilter,
  type StageIO,
  type StageKind,
  type StageScope,
} from "./pipeline/stream/stage.ts";
export { factorsOfKind } from "./pipeline/stream/factors.ts";
export { unpackFactors } from "./plugins/packing/unpack.ts";

// Streaming.
export type { DbfEvent } from "./pipeline/stream/events.ts";
export { createLease, formatBytes, type Lease, type Reservation } from "./pipeline/stream/lease.ts";
export { orderedMap, type OrderedMapOptions } from "./pipeline/stream/ordered_map.ts";
export { type JobStep, runJobs, type RunJobsOptions } from "./pipeline/stream/runner.ts";
export { tensorSeed } from "./pipeline/stream/seed.ts";

// Checkpoints, models, plans.
export { type CheckpointOptions, openCheckpoint } from "./pipeline/checkpoint/open.ts";
export type { CheckpointReader, TensorHandle, WeightDType } from "./pipeline/checkpoint/types.ts";
export {
  type SafetensorsEntry,
  type SafetensorsWriteOptions,
  type SafetensorsWritten,
  writeSafetensors,
} from "./pipeline/checkpoint/safetensors_writer.ts";
export { describeCheckpoint } from "./pipeline/model/check.ts";
export { describeModel, truncateBlocks } from "./pipeline/model/describe.ts";
export type { BlockDescription, LinearDescription, ModelDescription, RopeDescription } from "./pipeline/model/types.ts";
export { rankForBits, signBitsPerWeight } from "./pipeline/plan/bits.ts";
export {
  dbfStorage,
  entryStorage,
  nbitsStorage,
  signStorage,
  storedBitsPerWeight,
  storedBytes,
} from "./pipeline/plan/storage.ts";
export { type DenseTensor, type Inventory, inventory, type Selection } from "./pipeline/plan/inventory.ts";
export { type PlanInput, planRun } from "./pipeline/plan/plan.ts";
export type { PlannedLayer, PlannedStage, PlanReport } from "./pipeline/plan/types.ts";

// Artefacts.
export { viewCheckpoint } from "./pipeline/artefact/checkpoint_view.ts";
export { describeArtefact } from "./pipeline/artefact/describe.ts";
export { isArtefact, openArtefact, type OpenedArtefact } from "./pipeline/artefact/reader.ts";
export type { ArtefactEntry, ArtefactReader } from "./pipeline/artefact/types.ts";

// Graphs and sessions.
export { openRuntime } from "./kernels/runtime/open.ts";
export { diagnose, type Diagnosis, type PermissionFacts, type ProviderFacts } from "./kernels/runtime/doctor.ts";
export { ORT_BACKEND, registerOrtBackend } from "./kernels/runtime/ort_backend.ts";
export type {
  DType,
  Provider,
  RunOptions,
  Runtime,
  RuntimeOptions,
  Session,
  SessionOptions,
  Tensor,
  TensorData,
  ValueInfo,
} from "./kernels/runtime/types.ts";
export { createGraph, type GraphOptions } from "./pipeline/graph/graph.ts";
export * as ops from "./pipeline/graph/ops.ts";
export { differentiate, type DifferentiateOptions } from "./pipeline/graph/differentiate.ts";
export { encodeModel, type EncodeOptions } from "./pipeline/graph/encode.ts";
export { writeModel, type WriteOptions, type WrittenModel } from "./pipeline/graph/external_data.ts";
export type { Attribute, Dim, ExternalSource, Graph, Node, Value } from "./pipeline/graph/types.ts";
export { buildDecoder, type DecoderOptions, type DecoderWeights } from "./pipeline/model/decoder_graph.ts";
export { binaryMatMulFunction, DBF_DOMAIN, DBF_OPSET_VERSION } from "./kernels/functions/binary_matmul.ts";
export { LAYOUT_VERSION, packedBytes, packedShape, packSigns, unpackSigns } from "./kernels/layout.ts";

if (import.meta.main) {
  // Not awaited: a plugin that imports this module would wait for the program, and the program for the plugin.
  import("./pipeline/cli/main.ts").then(({ runProcess }) => runProcess()).then((code) => Deno.exit(code));
}
