/**
 * Factors that an allocation made on its way, for the run to use where it would make the same.
 *
 * @module
 */
import { canonicalJson } from "./artefact/fingerprint.ts";
import { factorizationOf, methodOf, type ResolvedStages } from "./recipe/resolve.ts";
import type { Factors, LayerJob, StageIO } from "./stream/stage.ts";

/** Most bytes of signs that are kept; what is beyond is made again. */
const MOST_KEPT_BYTES = 256 * 2 ** 20;

/** Factors by layer, and method and middle dimension. */
export interface MadeFactors {
  /** Keeps a trial's factors if they are what the run's own factorization gives. */
  readonly offer: StageIO["allocation"]["input"]["offer"];
  /** The kept factors of a job, which are forgotten with the others of its layer. */
  take(job: LayerJob): Factors | undefined;
}

/**
 * Nothing is kept in runs with reconstruction or distillation: the first factorize other weights, the second want latents.
 * What is kept are packed signs, as large as the artefact's layers.
 */
export function keepMadeFactors(stages: ResolvedStages): MadeFactors {
  const kept = new Map<string, Map<string, { readonly seed: number; readonly factors: Factors }>>();
  const variant = ({ name, method, rank }: LayerJob) => `${method ?? methodOf(stages, name)} ${rank}`;
  let bytes = 0;
  const wanted = stages.reconstruction.length === 0 && stages.distillation === undefined;
  const text = (options: Readonly<Record<string, unknown>>) => canonicalJson({ ...options, latents: undefined });
  return {
    offer({ stage, options, job, factors }) {
      if (!wanted) return;
      const own = factorizationOf(stages, job);
      const same = own.stage.name === stage.name && own.stage.version === stage.version &&
        text(own.options) === text(options);
      const size = own.stores(job).packedBytes;
      if (!same || bytes + size > MOST_KEPT_BYTES) return;
      bytes += size;
      const variants = kept.get(job.name) ?? new Map();
      kept.set(job.name, variants.set(variant(job), { seed: job.seed, factors }));
    },
    take(job) {
      const found = kept.get(job.name)?.get(variant(job));
      kept.delete(job.name);
      return found?.seed === job.seed ? found.factors : undefined;
    },
  };
}
