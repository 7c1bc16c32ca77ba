/**
 * Checks a tokenizer.json before its library runs it: types that the library takes for granted, and definitions made to
 * use up time or memory.
 *
 * @module
 */
import * as v from "valibot";
import { whyUnboundedRegex } from "../checkpoint/bounded_regex.ts";

/** Largest id: vocabularies in use end at 262,144; padded ones below half a million. */
const MAX_ID = 2 ** 24;
/** Most that all replacements of the normalizer or decoder may lengthen a text together: byte escapes (`<0x0A>`) need 6. */
const MAX_GROWTH = 64;

const Id = v.pipe(v.number(), v.safeInteger(), v.minValue(0), v.maxValue(MAX_ID));
const Pair = v.tuple([v.string(), v.string()]);
const Definition = v.looseObject({
  model: v.looseObject({
    vocab: v.union([v.record(v.string(), Id), v.array(v.tuple([v.string(), v.number()]))]),
    merges: v.optional(v.array(v.union([v.string(), Pair]))),
    unk_token: v.nullish(v.string()),
    unk_id: v.nullish(Id),
    continuing_subword_prefix: v.nullish(v.string()),
    end_of_word_suffix: v.nullish(v.string()),
  }),
  added_tokens: v.nullish(v.array(v.looseObject({ id: Id, content: v.pipe(v.string(), v.nonEmpty()) }))),
});

/**
 * Checks a parsed tokenizer.json.
 *
 * @param path Where it came from, for errors.
 * @throws {TypeError} naming the field that is wrong, or the part that would take exponential time or memory.
 */
export function checkTokenizer(definition: Readonly<Record<string, unknown>>, path: string): void {
  const parsed = v.safeParse(Definition, definition, { abortEarly: true });
  if (!parsed.success) {
    const [issue] = parsed.issues;
    const field = (v.getDotPath(issue) ?? "").slice(0, 200);
    throw new TypeError(`Cannot use ${path} as a tokenizer: field "${field}": ${issue.message.slice(0, 300)}`);
  }
  for (const part of ["normalizer", "pre_tokenizer", "post_processor", "decoder"]) {
    const growth = { factor: 1 };
    checkPart(definition[part], path, part, growth);
    if (growth.factor > MAX_GROWTH) {
      throw new TypeError(
        `Cannot use ${path} as a tokenizer: the replacements of its ${part} lengthen a text up to ${growth.factor} ` +
          `times, and at most ${MAX_GROWTH} are allowed`,
      );
    }
  }
}

function checkPart(value: unknown, path: string, field: string, growth: { factor: number }): void {
  if (typeof value !== "object" || value === null) return;
  const part = value as Record<string, unknown>;
  const pattern = part.pattern as { readonly Regex?: unknown; readonly String?: unknown } | null | undefined;
  if (typeof pattern?.Regex === "string") {
    const why = whyUnboundedRegex(pattern.Regex);
    if (why !== undefined) {
      throw new TypeError(`Cannot use ${path} as a tokenizer: pattern of ${field} is refused as ${why}`);
    }
  }
  if (part.type === "Replace" && typeof part.content === "string") {
    const matched = typeof pattern?.String === "string" ? pattern.String.length : 1;
    growth.factor *= Math.max(1, matched === 0 ? 1 + part.content.length : part.content.length / matched);
  }
  for (const [key, inner] of Object.entries(part)) checkPart(inner, path, `${field}.${key}`, growth);
}
