import { assert, assertEquals } from "@std/assert";
import type { Stage } from "../../../pipeline/stream/stage.ts";
import { errorCompensationStage } from "../../../plugins/reconstruction/error_compensation.ts";
import { openSmallRun } from "./small_run.ts";

const stage = errorCompensationStage as Stage<"reconstruction">;

Deno.test("errorCompensationStage changes every weight but the first and keeps factors finite", async () => {
  await using plain = await openSmallRun();
  await using run = await openSmallRun();
  const before = await plain.reconstruct({ strength: 0 }, plain.model.blocks, stage);
  const after = await run.reconstruct({}, run.model.blocks, stage);
  assertEquals(after.size, 14);
  const first = "model.layers.0.self_attn.q_proj.weight";
  assertEquals(after.get(first)!.a, before.get(first)!.a);
  const later = "model.layers.1.mlp.down_proj.weight";
  assert(after.get(later)!.a.some((value, at) => value !== before.get(later)!.a[at]));
  for (const each of after.values()) assert([...each.a, ...each.mid, ...each.b].every(Number.isFinite));
});
