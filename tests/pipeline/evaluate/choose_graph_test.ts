import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import type { Runtime } from "../../../kernels/runtime/types.ts";
import { f32ToF16Bits } from "../../../pipeline/checkpoint/half.ts";
import { chooseGraph } from "../../../pipeline/evaluate/choose_graph.ts";
import { seededRandom } from "../../../pipeline/evaluate/sample.ts";

/** Sums of up to 1000 float32 probabilities. */
const TOLERANCE = 1e-5;

async function draw(
  runtime: Runtime,
  rows: readonly (readonly number[])[],
  uniform: readonly number[],
  temperature: number,
  dtype: "float32" | "float16" = "float32",
) {
  const vocabulary = rows[0].length;
  await using session = await runtime.load(chooseGraph(dtype, vocabulary, temperature > 0), { tf32: false });
  // Only the last of two rows counts.
  const values = Float32Array.from(rows.flatMap((row) => [...row.map((value) => -value), ...row]));
  using stack = new DisposableStack();
  const shape = [rows.length, 2, vocabulary];
  const feeds = {
    logits: stack.use(
      dtype === "float32"
        ? runtime.tensor("float32", values, shape)
        : runtime.tensor("float16", f32ToF16Bits(values), shape),
    ),
    ...(temperature > 0
      ? {
        uniform: stack.use(runtime.tensor("float32", Float32Array.from(uniform), [rows.length, 1])),
        temperature: stack.use(runtime.tensor("float32", Float32Array.of(temperature), [])),
      }
      : {}),
  };
  const { token, largest } = await session.run(feeds);
  stack.use(token);
  stack.use(largest);
  const tokens = Array.from(await token.read() as BigInt64Array, Number);
  return { tokens, largest: Array.from(await largest.read() as Float32Array) };
}

Deno.test("chooseGraph() draws the token where the running probability passes the uniform number", async () => {
  await using runtime = await openRuntime();
  const random = seededRandom(3);
  for (const [vocabulary, temperature] of [[1, 1], [7, 0.5], [256, 1], [257, 2], [1000, 0.7]]) {
    const rows = Array.from({ length: 40 }, (_, index) => {
      const row = Array.from({ length: vocabulary }, () => 6 * random());
      // Tokens that cannot come, at both ends of a row.
      if (index % 3 === 0 && vocabulary > 5) {
        for (const at of [0, 1, vocabulary - 2, vocabulary - 1]) row[at] = -Infinity;
      }
      return row;
    });
    const uniform = rows.map((_, index) => index === 0 ? 0 : index === 1 ? 1 - 2 ** -24 : random());
    const { tokens, largest } = await draw(runtime, rows, uniform, temperature);
    rows.forEach((row, index) => {
      const top = Math.max(...row), token = tokens[index];
      assertAlmostEquals(largest[index], top, 1e-6);
      const relative = row.map((value) => Math.exp((value - top) / temperature));
      const total = relative.reduce((sum, value) => sum + value, 0);
      const before = relative.slice(0, token).reduce((sum, value) => sum + value, 0) / total;
      assert(relative[token] > 0, `row ${index} of ${vocabulary} drew a token that cannot come`);
      assert(before <= uniform[index] + TOLERANCE && uniform[index] < before + relative[token] / total + TOLERANCE);
    });
  }
});

Deno.test("chooseGraph() takes the first of the most likely tokens, from float16 too", async () => {
  await using runtime = await openRuntime();
  const rows = [[0, 3, 3, 1], [-1, -2, -3, -4], [0, 0, 0, 65000]];
  for (const dtype of ["float32", "float16"] as const) {
    assertEquals((await draw(runtime, rows, [], 0, dtype)).tokens, [1, 0, 3]);
    assertEquals((await draw(runtime, [rows[2]], [0.5], 1, dtype)).tokens, [3]);
  }
});

Deno.test("chooseGraph() shows by the largest logit that a row is damaged", async () => {
  await using runtime = await openRuntime();
  const { largest } = await draw(runtime, [[NaN, NaN], [-Infinity, -Infinity], [1, Infinity]], [], 0);
  assertEquals(largest.map(Number.isFinite), [false, false, false]);
});
