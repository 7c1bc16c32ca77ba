/**
 * Moves layer jobs through read → factorize → pack → commit, some at a time, inside a memory lease.
 *
 * @module
 */
import type { DbfEvent } from "./events.ts";
import type { Lease, Reservation } from "./lease.ts";
import { orderedMap } from "./ordered_map.ts";

/** One step of every job. */
export interface JobStep<J, I, O> {
  /** Shown in events and errors, e.g. `"dbf-admm"`. */
  readonly name: string;
  run(job: J, input: I, signal: AbortSignal): Promise<O>;
}

/** What {@linkcode runJobs} needs. */
export interface RunJobsOptions<J, R, F, P> {
  /** Jobs in the order in which they are committed; asked for one at a time. */
  readonly jobs: Iterable<J> | AsyncIterable<J>;
  /** Name of a job, for errors and events. */
  readonly subject: (job: J) => string;
  /** Most bytes that the job holds at once, from its first step to its last. */
  readonly peakBytes: (job: J) => number;
  readonly lease: Lease;
  /** Most jobs in one step at once, except that commits are one at a time and in order. Default 1. */
  readonly parallel?: number;
  readonly read: JobStep<J, void, R>;
  readonly factorize: JobStep<J, R, F>;
  readonly pack: JobStep<J, F, P>;
  readonly commit: JobStep<J, P, void>;
  readonly signal: AbortSignal;
  readonly emit: (event: DbfEvent) => void;
}

interface InFlight<J, V> {
  readonly job: J;
  readonly reservation: Reservation;
  readonly value: V;
}

/** The error with the job's name in its text. */
function named(error: unknown, step: string, subject: string, signal: AbortSignal): unknown {
  if (signal.aborted && error === signal.reason) return error;
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof Error && message.includes(subject)) return error;
  const text = `Cannot finish "${subject}" in ${step}: ${message}`;
  return error instanceof RangeError ? new RangeError(text, { cause: error }) : new Error(text, { cause: error });
}

/**
 * Runs all jobs. A job enters when its bytes are reserved and leaves when it is committed. Commits happen in the order
 * of `jobs` whatever the parallelism, so what is written does not depend on timing. The first error, or the signal,
 * stops everything: no new step starts, steps in flight see an aborted signal and are waited for.
 *
 * @returns How many jobs were committed.
 * @throws the first error, with the job's name in its text; the signal's reason when it aborts.
 */
export async function runJobs<J, R, F, P>(options: RunJobsOptions<J, R, F, P>): Promise<number> {
  const { subject, lease, emit } = options;
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const reservations = new Set<Reservation>();
  const started = new Set<Promise<unknown>>();
  let failure: { readonly error: unknown } | undefined;
  let committed = 0;

  const fail = (error: unknown) => {
    failure ??= { error };
    stop.abort(error);
  };
  const step = <I, O>({ name, run }: JobStep<J, I, O>, parallel: number) =>
    orderedMap<InFlight<J, I>, InFlight<J, O>>(async ({ job, reservation, value }) => {
      try {
        signal.throwIfAborted();
        const start = performance.now();
        emit({ type: "stage-start", stage: name, subject: subject(job) });
        const output = await run(job, value, signal);
        signal.throwIfAborted();
        emit({ type: "stage-end", stage: name, subject: subject(job), elapsedMs: performance.now() - start });
        return { job, reservation, value: output };
      } catch (cause) {
        const error = named(cause, name, subject(job), signal);
        fail(error);
        throw error;
      }
    }, {
      parallel,
      onStart(call) {
        started.add(call);
        const done = () => void started.delete(call);
        call.then(done, done);
      },
    });

  async function* source(): AsyncGenerator<InFlight<J, void>> {
    for await (const job of options.jobs) {
      signal.throwIfAborted();
      const reservation = await lease.reserve(options.peakBytes(job), subject(job), signal);
      reservations.add(reservation);
      yield { job, reservation, value: undefined };
    }
  }

  const parallel = options.parallel ?? 1;
  try {
    await ReadableStream.from(source())
      .pipeThrough(step(options.read, parallel))
      .pipeThrough(step(options.factorize, parallel))
      .pipeThrough(step(options.pack, parallel))
      .pipeThrough(step(options.commit, 1))
      .pipeTo(
        new WritableStream<InFlight<J, void>>({
          write({ reservation }) {
            committed++;
            reservations.delete(reservation);
            reservation[Symbol.dispose]();
          },
        }, { highWaterMark: 1 }),
      );
  } catch (error) {
    fail(error);
  } finally {
    while (started.size > 0) await Promise.allSettled(started);
    for (const reservation of reservations) reservation[Symbol.dispose]();
  }
  if (options.signal.aborted) throw options.signal.reason;
  if (failure !== undefined) throw failure.error;
  return committed;
}
