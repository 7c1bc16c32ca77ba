import { assertEquals } from "@std/assert";
import {
  advanceChain,
  chainDirectory,
  type ChainOptions,
  dropOtherChains,
  openChain,
} from "../../../pipeline/calibrate/chain.ts";
import { disposeFeeds, openBlockEngine, readFloats } from "../../../pipeline/calibrate/engine.ts";
import { openSmallRun } from "../../plugins/reconstruction/small_run.ts";

for (const resident of [false, true]) {
  const where = resident ? "on the device" : "in files";
  Deno.test(`openChain() takes no activations of other windows, ${where}, and dropOtherChains() ends those`, async () => {
    await using run = await openSmallRun();
    const { model, checkpoint, context, calibration } = run;
    await using engine = openBlockEngine(context.runtime, model, checkpoint);
    const chainOf = (windows: readonly Int32Array[]): ChainOptions => ({
      engine,
      windows,
      directory: chainDirectory(context.scratch, windows),
      batch: 4,
      resident,
    });
    const weights = (block: (typeof model.blocks)[number]) => engine.weights(block);
    const outputOf = async (chain: ChainOptions) => {
      using output = await openChain(chain, "full", model.blocks.length, weights);
      return await readFloats(await output.tensor([0]));
    };
    const few = chainOf(calibration.slice(1, 3)), all = chainOf(calibration), same = chainOf([...calibration]);
    const fewBefore = await outputOf(few), allBefore = await outputOf(all);
    assertEquals(fewBefore.length, allBefore.length);
    assertEquals(await outputOf(chainOf(calibration.slice(1, 2))), fewBefore);

    // What a reconstruction leaves is found by a stage with the same windows …
    const [first] = model.blocks;
    {
      using input = await openChain(all, "full", 0, weights);
      const feeds = { ...await engine.vectors(first), ...await engine.weights(first) };
      using _ = await advanceChain(all, "compressed", first, input, feeds);
      disposeFeeds(feeds);
    }
    const notReached = () => Promise.reject(new Error("computed again"));
    await dropOtherChains(same);
    using _found = await openChain(same, "compressed", 1, notReached);
    assertEquals(await outputOf(same), allBefore);
    // … and the others are gone, and computed again to the same values.
    let computed = 0;
    const counted = (block: (typeof model.blocks)[number]) => (computed++, engine.weights(block));
    using again = await openChain(few, "full", model.blocks.length, counted);
    assertEquals(computed, model.blocks.length);
    assertEquals(await readFloats(await again.tensor([0])), fewBefore);
  });
}
