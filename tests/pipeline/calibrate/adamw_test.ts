import { assert, assertAlmostEquals } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { disposeVector, openAdamW, trainedVector } from "../../../pipeline/calibrate/adamw.ts";
import { cosineFactor } from "../../../pipeline/calibrate/schedule.ts";

Deno.test("openAdamW() follows an f64 twin for ten steps, with a learning rate for each element", async () => {
  const beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weightDecay = 0.1, steps = 10;
  await using runtime = await openRuntime({ threads: 1 });
  await using optimizer = await openAdamW(runtime, { beta1, beta2, epsilon, weightDecay });
  const start = Float32Array.of(1, -2, 0.5, 3), rates = Float32Array.of(0.1, 0.01, 0.3, 0.001);
  const p = Float64Array.from(start), m = new Float64Array(4), v = new Float64Array(4);
  const vector = trainedVector(runtime, start, rates);
  for (let step = 0; step < steps; step++) {
    const gradient = Float32Array.from(p, (value, at) => Math.sin(3 * value + at + step));
    const factor = cosineFactor(step, steps);
    using tensor = runtime.tensor("float32", gradient, [4]);
    await optimizer.step(vector, tensor, step, factor);
    for (let at = 0; at < 4; at++) {
      m[at] = beta1 * m[at] + (1 - beta1) * gradient[at];
      v[at] = beta2 * v[at] + (1 - beta2) * gradient[at] ** 2;
      const mean = m[at] / (1 - beta1 ** (step + 1)), square = v[at] / (1 - beta2 ** (step + 1));
      p[at] -= rates[at] * factor * (mean / (Math.sqrt(square) + epsilon) + weightDecay * p[at]);
    }
    const found = await vector.parameter.read() as Float32Array;
    for (let at = 0; at < 4; at++) assertAlmostEquals(found[at], p[at], 1e-5);
  }
  disposeVector(vector);
});

Deno.test("cosineFactor() rises, falls and never reaches 0", () => {
  assert(cosineFactor(0, 1000) < cosineFactor(20, 1000) && cosineFactor(20, 1000) < cosineFactor(49, 1000));
  for (let step = 50; step < 1000; step++) assert(cosineFactor(step + 1, 1000) <= cosineFactor(step, 1000));
  assertAlmostEquals(cosineFactor(999, 1000), 0.001, 1e-3);
  assert(cosineFactor(0, 1) > 0);
});
