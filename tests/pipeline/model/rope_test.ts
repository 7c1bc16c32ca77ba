import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { parseModelConfig, ropeParameters } from "../../../pipeline/model/config.ts";
import { describeRope } from "../../../pipeline/model/rope.ts";
import golden from "./golden/rope.json" with { type: "json" };

const base = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  vocab_size: 320,
  max_position_embeddings: 131072,
};

/** golden/rope.json: transformers 5's own frequencies (f32) for a head of 16 at 131,072 positions. */
for (const [kind, expected] of Object.entries(golden)) {
  const spellings = {
    "rope_parameters": { ...base, rope_parameters: expected.parameters },
    "rope_theta and rope_scaling": {
      ...base,
      rope_theta: expected.parameters.rope_theta,
      rope_scaling: { ...expected.parameters, rope_type: undefined, rope_theta: undefined, type: kind },
    },
  };
  for (const [spelling, config] of Object.entries(spellings)) {
    Deno.test(`describeRope() gives transformers' ${kind} frequencies from ${spelling}`, () => {
      const { full } = ropeParameters(parseModelConfig(config), { theta: 10_000 });
      const rope = describeRope(full, 16, base.max_position_embeddings);
      assertEquals(rope.rotaryDim, 16);
      // f32 golden values: 1e-6 relative.
      expected.inverseFrequencies.forEach((value, i) =>
        assertAlmostEquals(rope.inverseFrequencies[i] / value, 1, 1e-6, `frequency ${i}`)
      );
      assertAlmostEquals(rope.attentionFactor, expected.attentionFactor, 1e-6);
      if ("long" in expected) {
        assertEquals(rope.long?.after, 4096);
        expected.long.forEach((value, i) =>
          assertAlmostEquals(rope.long!.inverseFrequencies[i] / value, 1, 1e-6, `long frequency ${i}`)
        );
      }
    });
  }
}

Deno.test("describeRope() refuses unknown kinds and missing or misfit parameters by name", () => {
  assertThrows(() => describeRope({ rope_type: "spiral", rope_theta: 1e4 }, 16, 64), RangeError, '"spiral"');
  assertThrows(() => describeRope({ rope_type: "linear", rope_theta: 1e4 }, 16, 64), RangeError, '"factor"');
  assertThrows(
    () => describeRope({ rope_type: "longrope", rope_theta: 1e4, short_factor: [1], long_factor: [1] }, 16, 64),
    RangeError,
    "short_factor needs 8 numbers",
  );
  assertThrows(
    () => describeRope({ rope_theta: 1e4, partial_rotary_factor: 0.2 }, 16, 64),
    RangeError,
    "must be even",
  );
});

Deno.test("ropeParameters() gives sliding-window blocks their own base in either spelling", () => {
  const today = ropeParameters(
    parseModelConfig({
      ...base,
      rope_parameters: {
        full_attention: { rope_theta: 1e6, rope_type: "linear", factor: 8 },
        sliding_attention: { rope_theta: 1e4, rope_type: "default" },
      },
    }),
    { theta: 1e4 },
  );
  const older = ropeParameters(
    parseModelConfig({
      ...base,
      rope_theta: 1e6,
      rope_local_base_freq: 1e4,
      rope_scaling: { rope_type: "linear", factor: 8 },
    }),
    { theta: 1e4 },
  );
  for (const which of ["full", "sliding"] as const) {
    assertEquals(
      describeRope(today[which], 16, 64).inverseFrequencies,
      describeRope(older[which], 16, 64).inverseFrequencies,
    );
  }
  assertEquals(describeRope(today.full, 16, 64).inverseFrequencies[0], 1 / 8);
});
