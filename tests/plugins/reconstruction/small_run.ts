import { factorsOfKind } from "../../../pipeline/stream/factors.ts";
import * as v from "valibot";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { openCheckpoint } from "../../../pipeline/checkpoint/open.ts";
import { describeModel } from "../../../pipeline/model/describe.ts";
import type { DbfEvent } from "../../../pipeline/stream/events.ts";
import { tensorSeed } from "../../../pipeline/stream/seed.ts";
import type {
  DbfFactors,
  Factors,
  LayerImportance,
  LayerJob,
  Stage,
  StageContext,
} from "../../../pipeline/stream/stage.ts";
import { logitDistillation } from "../../../plugins/distillation/logits.ts";
import { dbfAdmm } from "../../../plugins/factorization/dbf_admm/stage.ts";
import { fisherDiagonalImportance } from "../../../plugins/importance/fisher_diagonal.ts";
import { blockTuning } from "../../../plugins/reconstruction/block_tuning.ts";

/** A two-block model, random calibration tokens and everything that stages need, in a temporary directory. */
export async function openSmallRun(bits = 1, fixture = "llama") {
  using checkpointStack = new DisposableStack();
  const checkpoint = checkpointStack.use(
    await openCheckpoint(`tests/fixtures/architectures/${fixture}`),
  );
  const model = describeModel(checkpoint.config, checkpoint.tensors);
  const runtime = await openRuntime({ threads: 1 });
  const scratch = await Deno.makeTempDir();
  const events: DbfEvent[] = [];
  const controller = new AbortController();
  const context: StageContext = {
    runtime,
    signal: controller.signal,
    scratch,
    emit: (event) => {
      events.push(event);
    },
  };
  let state = 7;
  const token = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % model.vocabularySize;
  const calibration = Array.from({ length: 9 }, () => Int32Array.from({ length: 12 }, token));
  const jobs: LayerJob[] = model.blocks.flatMap((block) =>
    block.linears.map(({ weight, role, rows, cols }) => ({
      name: weight,
      block: block.index,
      role,
      rows,
      cols,
      rank: Math.floor(bits * rows * cols / (rows + cols)),
      seed: tensorSeed(0, weight),
    }))
  );
  const importance: ReadonlyMap<string, LayerImportance> = await fisherDiagonalImportance.run(
    { checkpoint, model, layers: jobs, calibration },
    v.parse(fisherDiagonalImportance.options, {}),
    context,
  );
  const factors = new Map<string, DbfFactors>();
  const moved = checkpointStack.move();
  return {
    checkpoint,
    model,
    context,
    controller,
    events,
    calibration,
    jobs,
    importance,
    factors,
    /** Reconstructs blocks with `options` and keeps the factors. */
    async reconstruct(
      options: Record<string, unknown>,
      blocks = model.blocks,
      stage: Stage<"reconstruction"> = blockTuning as Stage<"reconstruction">,
      reader = checkpoint,
    ) {
      const admm = v.parse(dbfAdmm.options, { iterations: 12, sweeps: 1 });
      for (const { index } of blocks) {
        const made = await stage.run(
          {
            block: index,
            model,
            checkpoint: reader,
            jobs: jobs.filter(({ block }) => block === index),
            importance,
            calibration,
            wantsInputMoment: () => false,
            factorize: (job, weight) =>
              dbfAdmm.run({ job, weight, importance: importance.get(job.name) }, admm, context),
            committed: (name) => Promise.resolve(factors.get(name)),
          },
          v.parse(stage.options, options),
          context,
        );
        for (const [name, each] of made) factors.set(name, factorsOfKind(name, each, "dbf"));
      }
      return factors;
    },
    async [Symbol.asyncDispose]() {
      moved.dispose();
      await runtime[Symbol.asyncDispose]();
      await Deno.remove(scratch, { recursive: true });
    },
  };
}

/** What {@linkcode distil} takes of a small run. */
type Distilled = Pick<
  Awaited<ReturnType<typeof openSmallRun>>,
  "model" | "checkpoint" | "jobs" | "importance" | "calibration" | "context"
>;

/** Distils factors, which are read anew at every call as in a run, and returns what was committed. */
export async function distil(
  { model, checkpoint, jobs, importance, calibration, context }: Distilled,
  before: ReadonlyMap<string, Factors>,
  options: Record<string, unknown>,
) {
  const committed = new Map<string, Factors>();
  const result = await logitDistillation.run(
    {
      model,
      checkpoint,
      jobs,
      importance,
      calibration,
      factors: (name) => Promise.resolve(structuredClone(before.get(name)!)),
      commit: (name, factors) => Promise.resolve(void committed.set(name, factors)),
    },
    v.parse(logitDistillation.options, { batchTokens: 36, ...options }),
    context,
  );
  return { committed, result };
}

/** Last event's loss of a stage. */
export function lossesOf(events: readonly DbfEvent[], stage: string): number[] {
  return events.flatMap((event) =>
    event.type === "stage-progress" && event.stage === stage ? [event.detail!.loss] : []
  );
}
