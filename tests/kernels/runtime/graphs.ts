/** The runtime and graphs that the tests of the session interface share. */
import { openRuntime } from "../../../kernels/runtime/open.ts";
import type { DType, Provider, Runtime, RuntimeOptions } from "../../../kernels/runtime/types.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { loop, matMul } from "../../../pipeline/graph/ops.ts";
import type { Dim } from "../../../pipeline/graph/types.ts";

/** Provider under test: `DBF_PROVIDER`, else the CPU. */
export const provider = (Deno.env.get("DBF_PROVIDER") ?? "cpu") as Provider;

/** Opens the provider under test through the C API. */
export function open(options: RuntimeOptions = {}): Promise<Runtime> {
  return openRuntime({ provider, binding: "c-api", threads: 1, ...options });
}

/** `y = x`, of any type and shape. */
export function identityModel(dtype: DType, shape: readonly Dim[]): Uint8Array {
  const g = createGraph("identity");
  const x = g.input("x", dtype, shape);
  const [y] = g.node("Identity", [x], {}, { outputs: [{ dtype, shape }] });
  g.output("y", y);
  return encodeModel(g);
}

/** `y = x + x`, float32 of shape (n, m). */
export function doubleModel(): Uint8Array {
  const g = createGraph("double");
  const x = g.input("x", "float32", ["n", "m"]);
  g.output("y", g.node("Add", [x, x])[0]);
  return encodeModel(g);
}

/** `y = x + 1` elementwise, float32 of shape (n). */
export function incrementModel(): Uint8Array {
  const g = createGraph("increment");
  const x = g.input("x", "float32", ["n"]);
  g.output("y", g.node("Add", [x, g.constant(1)])[0]);
  return encodeModel(g);
}

/** `y = x · x · …`, `count` times in a loop: (size, size) products that take as long as wanted. */
export function slowModel(size: number): Uint8Array {
  const g = createGraph("slow");
  const x = g.input("x", "float32", [size, size]);
  const count = g.input("count", "int64", []);
  const body = createGraph("body");
  body.input("iteration", "int64", []);
  const condition = body.input("condition", "bool", []);
  const state = body.input("state", "float32", [size, size]);
  body.output("go_on", body.node("Identity", [condition], {}, { outputs: [{ dtype: "bool", shape: [] }] })[0]);
  body.output("next", matMul(body, state, state));
  g.output("y", loop(g, count, [x], body)[0]);
  return encodeModel(g);
}

/** Milliseconds that an action takes. */
export async function elapsed(action: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await action();
  return performance.now() - start;
}
