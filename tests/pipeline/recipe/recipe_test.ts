import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import * as v from "valibot";
import { loadRecipe, parseRecipe } from "../../../pipeline/recipe/parse.ts";
import { type AnyStage, checkStage, loadPlugins } from "../../../pipeline/recipe/plugin_loader.ts";
import { resolveStages } from "../../../pipeline/recipe/resolve.ts";
import { parseBytes } from "../../../pipeline/recipe/units.ts";
import { builtinStages } from "../../../plugins/mod.ts";
import { fakeFactorization, fakeStages } from "../fake_stages.ts";

const BASE = { model: "m", out: "o" };

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("parseRecipe() fills in defaults, and parsing its own output changes nothing", () => {
  const recipe = parseRecipe({ ...BASE, memory: "1.5GiB", stages: { factorization: "other" } });
  assertEquals(recipe.memory, 1.5 * 2 ** 30);
  assertEquals(recipe.stages.factorization, { use: "other", options: {} });
  assertEquals(recipe.stages.packing.use, "bits32");
  assertEquals(parseRecipe(recipe), recipe);
  const further = parseRecipe({ ...BASE, from: "a", stages: { distillation: "logits" } });
  assertEquals(parseRecipe(further), further);
});

Deno.test("parseRecipe() names the path of the wrong field", () => {
  const cases: [unknown, string][] = [
    [{ out: "o" }, "model"],
    [{ ...BASE, bits: 0 }, "bits: must be above 0"],
    [{ ...BASE, bits: 1, size: "1GB" }, "give bits or size, not both"],
    [{ ...BASE, memory: "lots" }, "memory: must be bytes"],
    [{ ...BASE, deviceMemory: "64GiB" }, "deviceMemory is a GPU's: give provider cuda or webgpu"],
    [{ ...BASE, provider: "cuda", deviceMemory: 0 }, "deviceMemory: must be bytes above 0"],
    [{ ...BASE, keep: ["("] }, "keep.0: must be a regular expression"],
    [{ ...BASE, stages: { factorization: { use: 3 } } }, "stages.factorization"],
    [{ ...BASE, stages: { reconstruction: [{ use: "x", optoins: {} }] } }, "stages.reconstruction.0"],
    [{ ...BASE, dtype: "f8" }, "dtype"],
    [{ ...BASE, seed: 1.5 }, "seed: must be a whole number"],
    [{ ...BASE, bitz: 1 }, "bitz"],
    [{ ...BASE, calibration: { source: "t.txt", length: 0 } }, "calibration.length: must be at least 1"],
    [{ ...BASE, from: "a" }, "from: such a run only distils"],
    [{ ...BASE, from: "a", stages: { distillation: "none" } }, "from: such a run only distils"],
    [
      { ...BASE, from: "a", bits: 2, keep: ["q"], stages: { distillation: "logits", importance: "activation" } },
      "bits, keep, stages.importance: a run that goes on from another one has these from there",
    ],
    ["text", "this recipe"],
  ];
  for (const [value, part] of cases) {
    assertStringIncludes(assertThrows(() => parseRecipe(value), TypeError).message, part);
  }
});

Deno.test("loadRecipe() reads JSON, lets flags win, and names the file in errors", () =>
  withFolder(async (folder) => {
    const path = `${folder}/recipe.json`;
    await Deno.writeTextFile(path, JSON.stringify({ ...BASE, size: "1GB", stages: { packing: "p", target: "t" } }));
    const recipe = await loadRecipe(path, { bits: 1, out: undefined, stages: { target: "u" } });
    assertEquals([recipe.bits, recipe.size, recipe.out], [1, undefined, "o"]);
    assertEquals([recipe.stages.packing.use, recipe.stages.target.use], ["p", "u"]);
    await Deno.writeTextFile(path, "{");
    await assertRejects(() => loadRecipe(path), SyntaxError, path);
    await Deno.writeTextFile(path, "[]");
    await assertRejects(() => loadRecipe(path), SyntaxError, "must hold a JSON object");
    await Deno.writeTextFile(path, JSON.stringify({ ...BASE, threads: -1 }));
    await assertRejects(() => loadRecipe(path), TypeError, "threads");
  }));

Deno.test("resolveStages() binds options, hands effort to stages that know it, and names what is wrong", () => {
  const stages = [...builtinStages, ...fakeStages];
  const recipe = parseRecipe({ ...BASE, effort: "fast", stages: { factorization: "fake", target: "listing" } });
  const resolved = resolveStages(recipe, stages);
  assertEquals(resolved.factorization.identity, { name: "fake", version: "1.0.0", options: { effort: "fast" } });
  assertEquals(resolved.allocation.options, { overrides: {}, step: 1 });
  const chosen = { ...BASE, effort: "fast", stages: { factorization: { use: "fake", options: { effort: "best" } } } };
  assertEquals(resolveStages(parseRecipe(chosen), stages).factorization.options.effort, "best");

  const wrong = (stage: unknown, part: string) => {
    const error = assertThrows(
      () => resolveStages(parseRecipe({ ...BASE, stages: { factorization: stage } }), stages),
      TypeError,
    );
    assertStringIncludes(error.message, part);
  };
  wrong("dbf-adm", 'did you mean "dbf-admm"?');
  wrong("uniform", "There is");
  wrong({ use: "fake", options: { effort: "huge" } }, 'stages.factorization.options of "fake": effort');
  wrong({ use: "fake", options: { colour: 1 } }, "colour");
});

Deno.test("builtinStages are all well-formed, have defaults for every option, and distinct names", () => {
  for (const stage of builtinStages) {
    checkStage(stage, stage.name);
    assert(v.safeParse(stage.options, {}).success, stage.name);
  }
  assertEquals(new Set(builtinStages.map(({ kind, name }) => `${kind} ${name}`)).size, builtinStages.length);
});

Deno.test("checkStage() names the field that is wrong", () => {
  const good = fakeFactorization as unknown as Record<string, unknown>;
  assertEquals(checkStage(good, "it") as unknown, good);
  const cases: [Record<string, unknown>, string][] = [
    [{ kind: "magic" }, "kind must be one of"],
    [{ scope: "model" }, 'scope must be "layer"'],
    [{ name: "My Stage" }, "name must be"],
    [{ version: "1" }, "version must be"],
    [{ description: undefined }, "description must be"],
    [{ options: {} }, "options must be"],
    [{ estimate: 1 }, "estimate must be"],
    [{ run: undefined }, "run must be a function"],
  ];
  for (const [change, part] of cases) {
    assertStringIncludes(assertThrows(() => checkStage({ ...good, ...change }, "it"), TypeError).message, part);
  }
});

Deno.test("loadPlugins() takes default stages, lists and named exports, and refuses the rest clearly", () =>
  withFolder(async (folder) => {
    const stage = (name: string) =>
      `{ kind: "importance", scope: "model", name: "${name}", version: "1.0.0", description: "d",
         options: { "~standard": {} }, estimate: () => ({ peakBytes: 0 }), run: () => Promise.resolve(new Map()) }`;
    const write = async (name: string, text: string) => {
      await Deno.writeTextFile(`${folder}/${name}`, text);
      return `./${name}`;
    };
    const load = (specifiers: string[], builtins: readonly AnyStage[] = builtinStages) =>
      loadPlugins(specifiers, { builtins, base: folder });
    const one = await write("one.js", `export default ${stage("one")}`);
    const list = await write("list.js", `export default [${stage("two")}, ${stage("three")}]`);
    const named = await write("named.js", `export const helper = 1; export const four = ${stage("four")}`);
    assertEquals((await load([one, list, named])).map(({ name }) => name), ["one", "two", "three", "four"]);
    assertEquals((await load([`${folder}/one.js`])).length, 1);

    await assertRejects(() => load([one, one]), TypeError, "load only one");
    const none = await write("none.js", `export default ${stage("none")}`);
    await assertRejects(() => load([none]), TypeError, 'importance "none" is built in');
    const empty = await write("empty.js", "export const x = 1");
    await assertRejects(() => load([empty]), TypeError, "exports no stage");
    const broken = await write("broken.js", "throw new Error('boom')");
    await assertRejects(() => load([broken]), Error, 'Cannot load the plugin "./broken.js": boom');
    await assertRejects(() => load(["./absent.js"]), Error, "Cannot load the plugin");
    await assertRejects(() => load(["https://example.com/x.ts"]), TypeError, "name a file");
    const noRun = await write("no_run.js", `export default { ...${stage("five")}, run: undefined }`);
    await assertRejects(() => load([noRun]), TypeError, "the default export of ./no_run.js as a stage as run must be");
  }));

Deno.test("parseBytes() reads binary and decimal units and refuses everything else", () => {
  assertEquals(["4GiB", "4 gib", "1kb", "12", "1e3"].map(parseBytes), [2 ** 32, 2 ** 32, 1000, 12, 1000]);
  assertEquals(["", "GiB", "-1", "0", "1.2.3", "1 parsec", "9e99"].map(parseBytes), Array(7).fill(undefined));
});
