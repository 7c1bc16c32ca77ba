import { assertEquals } from "@std/assert";
import { keepMadeFactors } from "../../pipeline/made_factors.ts";
import { parseRecipe } from "../../pipeline/recipe/parse.ts";
import type { RecipeInput } from "../../pipeline/recipe/schema.ts";
import { resolveStages } from "../../pipeline/recipe/resolve.ts";
import type { LayerJob } from "../../pipeline/stream/stage.ts";
import { builtinStages } from "../../plugins/mod.ts";
import { fakeFactors } from "./fake_stages.ts";

const JOB: LayerJob = { name: "a.weight", block: 0, role: "a", rows: 8, cols: 64, rank: 4, seed: 7 };
const factorsOf = (job: LayerJob) => fakeFactors({ ...job, rank: 4 }, new Float32Array(64));

function storeFor(stages: RecipeInput["stages"], candidates: RecipeInput["candidates"] = {}) {
  const recipe = parseRecipe({ model: "m", out: "o", stages, candidates });
  const resolved = resolveStages(recipe, builtinStages);
  const made = keepMadeFactors(resolved);
  const offer = (job: LayerJob, options: Record<string, unknown> = {}) => {
    const own = resolved.candidates.get(job.method ?? "") ?? resolved.factorization;
    const factors = factorsOf(job);
    made.offer({ stage: own.stage, options: { ...own.options, ...options }, job, factors });
    return factors;
  };
  return { made, offer };
}

Deno.test("keepMadeFactors() gives back what has equal options, middle dimension, method and seed, once", () => {
  const candidates = { int4: "hqq", int8: { use: "hqq", options: { bits: 8 } } };
  const { made, offer } = storeFor({ factorization: "dbf-admm" }, candidates);
  const run = { ...JOB, method: "default" };
  const four = offer(JOB, { latents: false }), five = offer({ ...JOB, rank: 5 });
  offer({ ...JOB, rank: 6 }, { iterations: 3 });
  assertEquals(made.take({ ...run, rank: 5 }) === five, true);
  assertEquals(made.take(run), undefined); // the layer's others are forgotten
  offer(JOB);
  assertEquals(made.take({ ...run, seed: 8 }), undefined);
  offer({ ...JOB, rank: 6 }, { iterations: 3 });
  assertEquals(made.take({ ...run, rank: 6 }), undefined);

  const [int4, int8] = ["int4", "int8"].map((method) => ({ ...JOB, rank: 0, method }));
  const made4 = offer(int4);
  offer(int8);
  assertEquals(made.take(int4) === made4, true);
  assertEquals(four === five, false);
});

Deno.test("keepMadeFactors() keeps nothing where layers are tuned", () => {
  for (const stages of [{ reconstruction: ["block-tuning"] }, { distillation: "logits" }]) {
    const { made, offer } = storeFor(stages);
    offer(JOB);
    assertEquals(made.take({ ...JOB, method: "default" }), undefined);
  }
});
