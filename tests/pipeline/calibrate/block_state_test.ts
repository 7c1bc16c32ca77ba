import { assertEquals } from "@std/assert";
import { scaleRates } from "../../../pipeline/calibrate/block_state.ts";

Deno.test("scaleRates() are of each tensor's mean magnitude, or of each scale's own, a tenth of that mean at least", () => {
  const segments = [{ name: "a", shape: [4] }, { name: "b", shape: [2] }];
  const scales = Float32Array.of(4, -2, 0, 0.125, 8, -8);
  // means 1.53125 and 8
  assertEquals(scaleRates(segments, scales, 0.5), Float32Array.of(...Array(4).fill(0.765625), 4, 4));
  assertEquals(scaleRates(segments, scales, 0.5, "own"), Float32Array.of(2, 1, 0.0765625, 0.0765625, 4, 4));
});
