import { assertEquals, assertRejects } from "@std/assert";
import { openRuntime } from "../../../kernels/runtime/open.ts";
import { encodeModel } from "../../../pipeline/graph/encode.ts";
import { createGraph } from "../../../pipeline/graph/graph.ts";
import { add } from "../../../pipeline/graph/ops.ts";

Deno.test("Runtime.load() that ends after the runtime was closed is refused and leaves no session", async () => {
  const g = createGraph("sum");
  const x = g.input("x", "float32", ["n"]);
  g.output("y", add(g, x, x));
  const runtime = await openRuntime({ binding: "c-api" });
  assertEquals(runtime.binding, "c-api");
  const pending = runtime.load(encodeModel(g));
  const refused = assertRejects(() => pending, Error, "it was closed");
  await runtime[Symbol.asyncDispose]();
  await refused;
});
