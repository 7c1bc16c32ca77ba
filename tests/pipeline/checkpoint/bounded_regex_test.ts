import { assertEquals, assertMatch } from "@std/assert";
import { whyUnboundedRegex } from "../../../pipeline/checkpoint/bounded_regex.ts";

Deno.test("whyUnboundedRegex() lets the patterns of real tokenizers and of --keep through", () => {
  for (
    const source of [
      String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, // GPT-2
      String
        .raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`, // Llama 3
      String
        .raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?`, // o200k
      String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`, // BLOOM
      String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_\`{|}~][A-Za-z]+`, // DeepSeek
      " {2,}",
      String.raw`layers\.(0|1)\.mlp\.(up|gate)_proj`,
      "(ab)+",
    ]
  ) assertEquals(whyUnboundedRegex(source), undefined, source);
});

Deno.test("whyUnboundedRegex() names the group that makes matching exponential", () => {
  for (
    const [source, group] of [
      ["^(a+)+$", /\(a\+\)\+/],
      ["(?:a|aa)*b", /\(\?:a\|aa\)\*/],
      ["((a?)b){2,}", /\(\(a\?\)b\)\{2,\}/],
      ["(x(?:[a-z]*))+", /\(x/],
      [String.raw`(\d{1,3}){9}`, /\(\\d/],
      ["a".repeat(30_000), /30000 characters/],
    ] as const
  ) assertMatch(whyUnboundedRegex(source) ?? "none", group);
});
