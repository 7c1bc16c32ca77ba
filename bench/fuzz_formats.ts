/**
 * The formats that dbf reads, each with a real example and the code that reads it.
 *
 * @module
 */
import { join } from "node:path";
import { compress } from "../pipeline/compress.ts";
import { openArtefact } from "../pipeline/artefact/reader.ts";
import { openCheckpoint } from "../pipeline/checkpoint/open.ts";
import { inspectOnnx, renderOnnx } from "../pipeline/cli/inspect_onnx.ts";
import { loadTokenizer } from "../pipeline/evaluate/tokenizer.ts";
import { createChatRenderer } from "../pipeline/evaluate/chat.ts";
import { fromBinary } from "@bufbuild/protobuf";
import { Template } from "@huggingface/jinja";
import { ModelProtoSchema } from "../pipeline/graph/onnx_pb.ts";
import { unpackFactors } from "../plugins/packing/unpack.ts";
import { sha256 } from "../pipeline/artefact/durable.ts";
import { encodeLine, type JournalLine, readJournal } from "../pipeline/artefact/journal.ts";
import { mutateJson } from "./fuzz_mutations.ts";
import { mutateProtobuf } from "./fuzz_protobuf.ts";
import { describeCheckpoint } from "../pipeline/model/check.ts";
import { describeModel } from "../pipeline/model/describe.ts";
import { inventory } from "../pipeline/plan/inventory.ts";
import { loadRecipe } from "../pipeline/recipe/parse.ts";

const FIXTURES = new URL("../tests/fixtures/", import.meta.url).pathname;
const LLAMA = join(FIXTURES, "architectures/llama");
const TINY = join(FIXTURES, "tiny-llama");

/** A format, ready to be fed. */
export interface PreparedFormat extends AsyncDisposable {
  /** A real file. */
  readonly bytes: Uint8Array;
  /** A file that keeps the outer form and breaks what is inside. */
  readonly mutate: (random: () => number) => Uint8Array;
  /** Whether the first check lets the bytes through. */
  readonly syntax: (bytes: Uint8Array) => boolean;
  /** Reads the bytes as the product does. */
  readonly read: (bytes: Uint8Array) => Promise<unknown>;
}

/** Most formats hold nothing. */
const nothing = { [Symbol.asyncDispose]: () => Promise.resolve() };

/** One format. */
export interface FuzzFormat {
  readonly name: string;
  /** Writes what else a folder needs, and returns how to feed it. */
  readonly prepare: (folder: string) => Promise<PreparedFormat>;
}

const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

function isJson(bytes: Uint8Array): boolean {
  try {
    JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return true;
  } catch {
    return false;
  }
}

/** A JSON file at `path`. */
async function jsonFile(source: string, path: string, read: () => Promise<unknown>): Promise<PreparedFormat> {
  const bytes = await Deno.readFile(source);
  const json = JSON.parse(new TextDecoder().decode(bytes));
  return {
    ...nothing,
    bytes,
    mutate: (random) => encode(mutateJson(json, random)),
    syntax: isJson,
    async read(mangled) {
      await Deno.writeFile(path, mangled);
      return await read();
    },
  };
}

/** A safetensors file split into header and data. */
function safetensorsParts(bytes: Uint8Array): Omit<PreparedFormat, "read"> {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const data = bytes.subarray(8 + length);
  const json = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  return {
    ...nothing,
    bytes,
    mutate(random) {
      const header = encode(mutateJson(json, random));
      const file = new Uint8Array(8 + header.length + data.length);
      new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true);
      file.set(header, 8);
      file.set(data, 8 + header.length);
      return file;
    },
    syntax(mangled) {
      if (mangled.length < 8) return false;
      const size = new DataView(mangled.buffer, mangled.byteOffset).getBigUint64(0, true);
      return size <= BigInt(mangled.length - 8) && isJson(mangled.subarray(8, 8 + Number(size)));
    },
  };
}

/** A checkpoint of two little tensors: mutations hit the header, not megabytes of weights. */
function littleSafetensors(): Uint8Array {
  const header = encode({
    __metadata__: { format: "pt" },
    "a.weight": { dtype: "F32", shape: [4, 8], data_offsets: [0, 128] },
    "b.weight": { dtype: "BF16", shape: [16], data_offsets: [128, 160] },
  });
  const file = new Uint8Array(8 + header.length + 160);
  new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true);
  file.set(header, 8);
  return file;
}

async function readEveryTensor(folder: string): Promise<void> {
  using checkpoint = await openCheckpoint(folder);
  for (const handle of checkpoint.tensors.values()) await handle.read();
}

/** A compressed model to mangle: one block, one outer step. */
async function smallArtefact(folder: string): Promise<string> {
  const out = join(folder, "out");
  await compress({
    model: LLAMA,
    out,
    blocks: [0, 0],
    stages: { factorization: { use: "dbf-admm", options: { iterations: 1, sweeps: 0 } } },
  });
  return out;
}

/** What chat templates are made of, as models have it and as somebody might write it who means harm. */
const CHAT_PIECES: readonly string[] = [
  "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] | trim }}" +
  "{% else %}{{ raise_exception('no') }}{% endif %}{% endfor %}",
  "{% if add_generation_prompt %}<|bot|>{% endif %}",
  "{{ bos_token }}",
  "{% for m in messages %}{{ m.role }}{% endfor %}",
  "{% set ns = namespace(x='a') %}",
  "{% set ns.x = ns.x ~ ns.x %}",
  "{% macro f(a) %}{{ a | tojson }}{% endmacro %}{{ f(messages) }}",
  "{{ messages | map(attribute='content') | list | join(',') }}",
  "{{ messages[0].content[::-1] }}",
  "{{ messages[-9].x.y }}",
  "{{ constructor }}{{ messages.__proto__ }}{{ messages.constructor.constructor('return 1')() }}",
  "{{ [1, 2] + messages | length }}",
  "{{ 'x' * 5 }}",
  "{{ strftime_now('%Y') }}",
  "{{ undefined_function(1) }}",
  "{%- if messages[0]['role'] == 'system' -%}{%- set s = messages[0]['content'] -%}{%- endif -%}",
  "{{ range(10) | list }}",
  "{{ (1 / 0) }}",
  "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
];

/** Templates without an end and without a bound, each of which takes the whole second that it is given. */
const CHAT_BOMBS: readonly string[] = [
  "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}",
  "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
];
/** Share of the inputs that are bombs. */
const BOMB_SHARE = 0.001;

/** All formats. */
export const FORMATS: readonly FuzzFormat[] = [
  {
    name: "safetensors",
    async prepare(folder) {
      await Deno.copyFile(join(LLAMA, "config.json"), join(folder, "config.json"));
      return {
        ...safetensorsParts(littleSafetensors()),
        async read(mangled) {
          await Deno.writeFile(join(folder, "model.safetensors"), mangled);
          await readEveryTensor(folder);
        },
      };
    },
  },
  {
    name: "safetensors index",
    async prepare(folder) {
      await Deno.copyFile(join(LLAMA, "config.json"), join(folder, "config.json"));
      const weight_map: Record<string, string> = {};
      for (const shard of ["one.safetensors", "two.safetensors"]) {
        await Deno.writeFile(join(folder, shard), littleSafetensors());
        weight_map[shard === "one.safetensors" ? "a.weight" : "b.weight"] = shard;
      }
      const source = join(folder, "source.json");
      await Deno.writeTextFile(source, JSON.stringify({ metadata: { total_size: 320 }, weight_map }));
      return await jsonFile(source, join(folder, "model.safetensors.index.json"), () => readEveryTensor(folder));
    },
  },
  {
    name: "config.json",
    async prepare(folder) {
      await Deno.copyFile(join(LLAMA, "model.safetensors"), join(folder, "model.safetensors"));
      return await jsonFile(join(LLAMA, "config.json"), join(folder, "config.json"), async () => {
        using checkpoint = await openCheckpoint(folder);
        inventory(describeModel(checkpoint.config));
        describeCheckpoint(checkpoint);
      });
    },
  },
  {
    name: "tokenizer.json",
    async prepare(folder) {
      const source = join(folder, "source.json");
      const tokenizer = JSON.parse(await Deno.readTextFile(join(TINY, "tokenizer.json")));
      // A hundredth of vocabulary and merges: the structure counts, not its length.
      tokenizer.model.vocab = Object.fromEntries(Object.entries(tokenizer.model.vocab).slice(0, 300));
      tokenizer.model.merges = tokenizer.model.merges.slice(0, 20);
      await Deno.writeTextFile(source, JSON.stringify(tokenizer));
      return await jsonFile(source, join(folder, "tokenizer.json"), async () => {
        const loaded = await loadTokenizer(folder);
        return loaded.decode(loaded.encode(`The quick brown fox, 1.5 times. ${"a".repeat(60)}!${" ".repeat(60)}`));
      });
    },
  },
  {
    name: "recipe",
    async prepare(folder) {
      const source = join(folder, "source.json"), path = join(folder, "recipe.json");
      await Deno.writeTextFile(
        source,
        JSON.stringify({
          model: "m",
          out: "o",
          bits: 1.5,
          keep: ["down_proj"],
          blocks: [0, 1],
          dtype: "f16",
          memory: "4GiB",
          parallel: 2,
          seed: 1,
          effort: "fast",
          calibration: { source: "text.txt", sequences: 4, length: 64 },
          stages: { importance: "none", factorization: { use: "dbf-admm", options: { iterations: 8 } } },
        }),
      );
      return await jsonFile(source, path, () => loadRecipe(path));
    },
  },
  {
    name: "artefact manifest",
    async prepare(folder) {
      const out = await smallArtefact(folder), path = join(out, "manifest.json");
      return await jsonFile(path, path, async () => {
        using artefact = await openArtefact(out);
        for (const entry of artefact.entries.values()) {
          if (entry.kind === "dense") await artefact.readRows(entry.name, 0, 1);
          else await artefact.layer(entry.name);
        }
      });
    },
  },
  {
    name: "packed layer",
    async prepare(folder) {
      const out = await smallArtefact(folder);
      const name = "model.layers.0.self_attn.k_proj.weight";
      const path = join(out, "layers", `${name}.g0.safetensors`);
      const manifest = join(out, "manifest.json");
      const listed = JSON.parse(await Deno.readTextFile(manifest));
      const entry = listed.entries.find((one: { readonly name: string }) => one.name === name);
      return {
        ...safetensorsParts(await Deno.readFile(path)),
        async read(mangled) {
          await Deno.writeFile(path, mangled);
          // Whoever mangles a layer can write its hash into the manifest, too.
          entry.bytes = mangled.length;
          entry.sha256 = sha256(mangled);
          await Deno.writeTextFile(manifest, JSON.stringify(listed));
          using artefact = await openArtefact(out);
          return unpackFactors(name, entry.shape, await artefact.layer(name));
        },
      };
    },
  },
  {
    name: "journal",
    async prepare(folder) {
      const out = await smallArtefact(folder), path = join(folder, "mangled.jsonl");
      const { lines } = await readJournal(join(out, "journal.jsonl"));
      const write = (changed: readonly JournalLine[]) => new TextEncoder().encode(changed.map(encodeLine).join(""));
      return {
        ...nothing,
        bytes: write(lines),
        mutate: (random) => write(lines.map((line) => random() < 0.9 ? line : mutateJson(line, random) as JournalLine)),
        syntax: (bytes) => bytes.length > 0 && bytes.at(-1) === 10,
        async read(mangled) {
          await Deno.writeFile(path, mangled);
          return await readJournal(path);
        },
      };
    },
  },
  {
    name: "onnx",
    async prepare(folder) {
      const out = await smallArtefact(folder), path = join(folder, "mangled.onnx");
      const bytes = await Deno.readFile(join(out, "onnx", "model.onnx"));
      return {
        ...nothing,
        bytes,
        mutate: (random) => mutateProtobuf(bytes, random),
        syntax(mangled) {
          try {
            return fromBinary(ModelProtoSchema, mangled) !== undefined;
          } catch {
            return false;
          }
        },
        async read(mangled) {
          await Deno.writeFile(path, mangled);
          return renderOnnx(path, await inspectOnnx(path));
        },
      };
    },
  },
  {
    name: "chat template",
    prepare() {
      const renderer = createChatRenderer();
      return Promise.resolve({
        bytes: new TextEncoder().encode(CHAT_PIECES.slice(0, 4).join("")),
        mutate(random: () => number) {
          const bomb = random() < BOMB_SHARE ? CHAT_BOMBS[Math.floor(CHAT_BOMBS.length * random())] : "";
          const pieces = Array.from(
            { length: 1 + Math.floor(8 * random()) },
            () => CHAT_PIECES[Math.floor(CHAT_PIECES.length * random())],
          );
          return new TextEncoder().encode(bomb + pieces.join(""));
        },
        syntax(mangled: Uint8Array) {
          try {
            return new Template(new TextDecoder().decode(mangled)) !== undefined;
          } catch {
            return false;
          }
        },
        read: (mangled: Uint8Array) =>
          renderer.render(new TextDecoder().decode(mangled), [{ role: "user", content: " hello " }], {
            bos_token: "<s>",
          }),
        [Symbol.asyncDispose]: () => renderer[Symbol.asyncDispose](),
      });
    },
  },
];
