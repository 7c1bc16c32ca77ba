/**
 * All built-in stages: a plain list, each made with `defineStage` like a third party's.
 *
 * @module
 */
import type { AnyStage } from "../pipeline/recipe/plugin_loader.ts";
import { channelPruningAllocation } from "./allocation/channel_pruning.ts";
import { measuredAllocation } from "./allocation/measured.ts";
import { uniformAllocation } from "./allocation/uniform.ts";
import { logitDistillation } from "./distillation/logits.ts";
import { dbfAdmm } from "./factorization/dbf_admm/stage.ts";
import { activationImportance } from "./importance/activation.ts";
import { fisherDiagonalImportance } from "./importance/fisher_diagonal.ts";
import { gptq } from "./factorization/nbits/gptq.ts";
import { hqq } from "./factorization/nbits/hqq.ts";
import { roundToNearest } from "./factorization/nbits/round_to_nearest.ts";
import { signValue } from "./factorization/sign/stage.ts";
import { noImportance } from "./importance/none.ts";
import { bits32 } from "./packing/bits32.ts";
import { blockTuning } from "./reconstruction/block_tuning.ts";
import { errorCompensationStage } from "./reconstruction/error_compensation.ts";
import { sequential } from "./reconstruction/sequential.ts";
import { onnxTarget } from "./target/onnx/stage.ts";

/** Built-in stages; recipes name them, plugins may not take their names. */
export const builtinStages: readonly AnyStage[] = [
  noImportance,
  activationImportance,
  fisherDiagonalImportance,
  uniformAllocation,
  channelPruningAllocation,
  measuredAllocation,
  dbfAdmm,
  signValue,
  roundToNearest,
  hqq,
  gptq,
  blockTuning,
  errorCompensationStage,
  sequential,
  bits32,
  logitDistillation,
  onnxTarget,
];
