import { assertEquals, assertStringIncludes } from "@std/assert";
import { CONTENDERS } from "../../bench/baselines_rows.ts";
import { type Measured, renderBaselines } from "../../bench/baselines_table.ts";
import { parseRecipe } from "../../pipeline/recipe/parse.ts";
import { resolveStages } from "../../pipeline/recipe/resolve.ts";
import { builtinStages } from "../../plugins/mod.ts";

Deno.test("bench baselines: every contender is a recipe of built-in stages, under a name of its own", () => {
  assertEquals(new Set(CONTENDERS.map(({ id }) => id)).size, CONTENDERS.length);
  for (const { id, recipe } of CONTENDERS) {
    if (recipe === undefined) continue;
    const { factorization } = resolveStages(parseRecipe({ model: "m", out: "o", ...recipe }), builtinStages);
    assertEquals(
      factorization.stage.name,
      id.startsWith("dbf") ? "dbf-admm" : id.replace(/-\d-g\d+(-tuned)?$/, ""),
      id,
    );
  }
});

Deno.test("bench baselines: the table says which double-binary rows something of their size or smaller beats", () => {
  const row = (id: string, effectiveBits: number, kl: number): Measured => ({
    contender: CONTENDERS.find((contender) => contender.id === id)!,
    run: {
      bits: 1,
      effectiveBits,
      modelBytes: 1000,
      seconds: 1,
      stageSeconds: {},
      peakBytes: 1,
      ranks: {},
      texts: { heldOut: { perplexity: 20, perplexityStderr: 1, kl, sameTop1: 0.5 } },
    },
  });
  const beaten = renderBaselines([row("dbf-1", 1.2, 0.6), row("dbf-2", 2.2, 0.3), row("sign", 1.1, 0.5)]);
  assertStringIncludes(beaten, "DBF 1 bits (sign (OneBit): 1.100 effective bits, KL 0.5000).");
  assertStringIncludes(
    renderBaselines([row("dbf-1", 1.2, 0.6), row("sign", 1.3, 0.5)]),
    "every DBF row is on the frontier",
  );
});
