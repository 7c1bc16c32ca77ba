/**
 * `deno task bench memory`: is the memory promise kept on a checkpoint far larger than memory?
 *
 * Writes a 141 GB checkpoint of Llama-3-70B's shape as sparse files, in which two blocks hold seeded random bf16, then runs
 * the command line on it in processes of their own and compares their peak resident memory with what `plan` promised.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";

const HIDDEN = 8192, INTERMEDIATE = 28672, VOCABULARY = 128256, HEADS = 64, KV_HEADS = 8, HEAD_DIM = 128;
/** Blocks that hold data; the others are holes. */
const FILLED_BLOCKS = 2;
const MIB = 1 << 20;

interface TensorPlace {
  readonly name: string;
  readonly shape: readonly number[];
}

function blockTensors(block: number): TensorPlace[] {
  const at = `model.layers.${block}.`;
  const kv = KV_HEADS * HEAD_DIM;
  return [
    { name: `${at}input_layernorm.weight`, shape: [HIDDEN] },
    { name: `${at}self_attn.q_proj.weight`, shape: [HEADS * HEAD_DIM, HIDDEN] },
    { name: `${at}self_attn.k_proj.weight`, shape: [kv, HIDDEN] },
    { name: `${at}self_attn.v_proj.weight`, shape: [kv, HIDDEN] },
    { name: `${at}self_attn.o_proj.weight`, shape: [HIDDEN, HEADS * HEAD_DIM] },
    { name: `${at}post_attention_layernorm.weight`, shape: [HIDDEN] },
    { name: `${at}mlp.gate_proj.weight`, shape: [INTERMEDIATE, HIDDEN] },
    { name: `${at}mlp.up_proj.weight`, shape: [INTERMEDIATE, HIDDEN] },
    { name: `${at}mlp.down_proj.weight`, shape: [HIDDEN, INTERMEDIATE] },
  ];
}

/** Random bf16 bits around ±2⁻⁶, from a xorshift generator: enough to have no structure. */
function fillRandomBf16(words: Uint32Array, state: number): number {
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = (state & 0x80ff80ff) | 0x3c003c00;
  }
  return state;
}

/** Writes one shard: header, then a hole of the tensors' size, filled with random numbers where asked. */
async function writeShard(path: string, tensors: readonly TensorPlace[], filled: boolean): Promise<number> {
  let offset = 0;
  const header: Record<string, unknown> = {};
  for (const { name, shape } of tensors) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1);
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  let json = JSON.stringify(header);
  json += " ".repeat((8 - (json.length % 8)) % 8);
  const head = new Uint8Array(8 + json.length);
  new DataView(head.buffer).setBigUint64(0, BigInt(json.length), true);
  head.set(new TextEncoder().encode(json), 8);
  using file = await Deno.open(path, { create: true, write: true, truncate: true });
  await file.write(head);
  if (filled) {
    const words = new Uint32Array(4 * MIB);
    let state = 0x9e3779b9;
    for (let left = offset; left > 0;) {
      state = fillRandomBf16(words, state);
      const chunk = new Uint8Array(words.buffer, 0, Math.min(left, words.byteLength));
      for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
      left -= chunk.length;
    }
  }
  await file.truncate(head.length + offset);
  return offset;
}

/** Writes the whole checkpoint and returns its size in bytes. */
async function writeCheckpoint(directory: string, blocks: number): Promise<number> {
  await Deno.mkdir(directory, { recursive: true });
  const weightMap: Record<string, string> = {};
  let total = 0;
  const shard = async (file: string, tensors: readonly TensorPlace[], filled: boolean) => {
    total += await writeShard(`${directory}/${file}`, tensors, filled);
    for (const { name } of tensors) weightMap[name] = file;
  };
  await shard("embed.safetensors", [{ name: "model.embed_tokens.weight", shape: [VOCABULARY, HIDDEN] }], false);
  for (let block = 0; block < blocks; block++) {
    await shard(`block-${block}.safetensors`, blockTensors(block), block < FILLED_BLOCKS);
  }
  await shard("head.safetensors", [
    { name: "model.norm.weight", shape: [HIDDEN] },
    { name: "lm_head.weight", shape: [VOCABULARY, HIDDEN] },
  ], false);
  await Deno.writeTextFile(
    `${directory}/model.safetensors.index.json`,
    JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }),
  );
  await Deno.writeTextFile(
    `${directory}/config.json`,
    JSON.stringify({
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: HIDDEN,
      intermediate_size: INTERMEDIATE,
      num_hidden_layers: blocks,
      num_attention_heads: HEADS,
      num_key_value_heads: KV_HEADS,
      head_dim: HEAD_DIM,
      vocab_size: VOCABULARY,
      max_position_embeddings: 8192,
      rms_norm_eps: 1e-5,
      hidden_act: "silu",
      rope_theta: 500000,
      tie_word_embeddings: false,
      torch_dtype: "bfloat16",
      bos_token_id: 128000,
      eos_token_id: 128001,
    }),
  );
  return total;
}

interface Measured {
  readonly peakRssBytes: number;
  readonly seconds: number;
  readonly stdout: string;
}

/** Runs the command line in a process of its own and watches the peak of its resident memory (VmHWM). */
async function runMeasured(args: readonly string[]): Promise<Measured> {
  const started = performance.now();
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", new URL("../mod.ts", import.meta.url).pathname, ...args],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let peak = 0;
  const timer = setInterval(() => {
    try {
      const match = /VmHWM:\s+(\d+) kB/.exec(Deno.readTextFileSync(`/proc/${child.pid}/status`));
      if (match) peak = Math.max(peak, Number(match[1]) * 1024);
    } catch { /* the process has ended */ }
  }, 20);
  const { success, stdout, stderr } = await child.output();
  clearInterval(timer);
  if (!success) {
    const text = new TextDecoder().decode(stderr).split("\n").slice(-12).join("\n");
    throw new Error(`Cannot measure "dbf ${args.join(" ")}" as it failed:\n${text}`);
  }
  return {
    peakRssBytes: peak,
    seconds: (performance.now() - started) / 1000,
    stdout: new TextDecoder().decode(stdout),
  };
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;

/**
 * Runs the benchmark.
 *
 * @param args `--dir DIR` (default: a temporary directory, removed afterwards), `--blocks N` (default 80), `--json`
 * @throws {Error} when a command fails or the file system has no sparse files.
 */
export async function main(args: readonly string[]): Promise<void> {
  const flags = parseArgs([...args], { string: ["dir", "blocks"], boolean: ["json"] });
  const root = flags.dir ?? await Deno.makeTempDir({ prefix: "dbf-memory-" });
  const blocks = Number(flags.blocks ?? 80);
  try {
    const model = `${root}/checkpoint`;
    const bytes = await writeCheckpoint(model, blocks);
    const shape = ["--blocks", `0-${FILLED_BLOCKS - 1}`];
    // One outer step and nothing after it: what is measured is memory, and every buffer is held from the first step on.
    const once = ["iterations=1", "sweeps=0", "pairPasses=0", "latents=false"];
    const compress = ["--bits", "0.25", ...shape, "--dtype", "f16", "--memory", "16GiB"]
      .concat(once.flatMap((option) => ["--set", `factorization.${option}`]));
    const plan = await runMeasured(["plan", model, "--bits", "1.5", "--json"]);
    const promise = await runMeasured(["plan", model, ...compress, "--json"]);
    const promised = Number(JSON.parse(promise.stdout).peakBytes);
    const dense = await runMeasured(["export", model, `${root}/dense`, ...shape, "--dtype", "f16", "--json"]);
    await Deno.remove(`${root}/dense`, { recursive: true });
    const packed = await runMeasured(["compress", model, `${root}/out`, ...compress, "--json"]);
    const rows = [
      { what: `plan of ${blocks} blocks (${(bytes / 1e9).toFixed(0)} GB)`, ...plan, promise: undefined },
      { what: `export of ${FILLED_BLOCKS} blocks kept dense, f16`, ...dense, promise: 2 ** 30 },
      { what: `compress of ${FILLED_BLOCKS} blocks at 0.25 bit, one iteration`, ...packed, promise: promised },
    ];
    if (flags.json) {
      console.log(JSON.stringify(
        rows.map(({ what, peakRssBytes, seconds, promise }) => ({
          what,
          peakRssBytes,
          seconds,
          promisedBytes: promise,
        })),
        null,
        2,
      ));
      return;
    }
    console.log("| run | peak RSS | promise | ratio | seconds |\n|---|---:|---:|---:|---:|");
    for (const row of rows) {
      const ratio = row.promise === undefined ? "–" : (row.peakRssBytes / row.promise).toFixed(2);
      const promise = row.promise === undefined ? "–" : gib(row.promise);
      console.log(`| ${row.what} | ${gib(row.peakRssBytes)} | ${promise} | ${ratio} | ${row.seconds.toFixed(1)} |`);
    }
  } finally {
    if (flags.dir === undefined) await Deno.remove(root, { recursive: true });
  }
}
