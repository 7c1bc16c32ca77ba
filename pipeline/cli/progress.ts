/**
 * Events to text: what is going on, how far it is, and how long it will take.
 *
 * @module
 */
import type { DbfEvent } from "../stream/events.ts";
import { formatBytes, formatDuration } from "./units.ts";

/** How far a task is. */
export interface Progress {
  /** The task, e.g. `"compress"`; a new one starts its own clock. */
  readonly task: string;
  readonly done: number;
  readonly total: number;
  /** Already done when the task was first heard of: not counted for the speed. */
  readonly before: number;
  readonly startedMs: number;
  /** What is worked on, e.g. `"model.layers.3.mlp.up_proj"`. */
  readonly subject: string;
  /** Numbers worth showing, e.g. `"error 0.0123"`. */
  readonly detail: string;
}

/** Follows a run's events. */
export interface ProgressTracker {
  /** @returns The progress after the event; `undefined` before anything can be counted. */
  follow(event: DbfEvent): Progress | undefined;
}

/**
 * Starts following.
 *
 * @param now Milliseconds of a steady clock.
 */
export function trackProgress(now: () => number): ProgressTracker {
  let layers = 0;
  let progress: Progress | undefined;
  const move = (task: string, done: number, total: number, subject: string, detail = "", before = 0) => {
    const same = progress?.task === task && progress.total === total ? progress : undefined;
    progress = {
      task,
      done,
      total,
      subject,
      detail,
      before: same?.before ?? before,
      startedMs: same?.startedMs ?? now(),
    };
  };
  return {
    follow(event) {
      if (event.type === "run-start") {
        layers = event.layers;
        move("compress", event.resumedLayers, layers, "", "", event.resumedLayers);
      } else if (event.type === "layer-committed") {
        const error = event.weightedError === undefined ? "" : `error ${event.weightedError.toPrecision(3)}`;
        move("compress", event.done, event.total, event.layer, error);
      } else if (event.type === "export-progress") {
        move("export", event.bytesDone, event.bytesTotal, event.tensor, formatBytes(event.bytesDone));
      } else if (event.type === "stage-start" && progress?.task === "compress") {
        progress = { ...progress, subject: event.subject, detail: event.stage };
      } else if (event.type === "stage-progress") {
        const detail = Object.entries(event.detail ?? {}).map(([name, value]) => `${name} ${value.toPrecision(4)}`)
          .join(", ");
        // Steps inside a layer do not move the count of layers.
        const inLayer = progress?.task === "compress" && progress.done < progress.total;
        if (inLayer) {
          progress = { ...progress!, subject: event.subject, detail: `${event.done}/${event.total} ${detail}`.trim() };
        } else move(event.stage, event.done, event.total, event.subject, detail);
      }
      return progress;
    },
  };
}

/** Seconds left at the speed so far; `undefined` while nothing was done. */
export function secondsLeft(progress: Progress, nowMs: number): number | undefined {
  const done = progress.done - progress.before;
  if (done <= 0) return undefined;
  return (nowMs - progress.startedMs) / 1000 / done * (progress.total - progress.done);
}

/**
 * One line with a bar.
 *
 * @param width Columns of the terminal.
 */
export function renderBar(progress: Progress, nowMs: number, width: number): string {
  const share = progress.total === 0 ? 1 : Math.min(1, progress.done / progress.total);
  const cells = 24;
  const full = Math.round(share * cells);
  const left = secondsLeft(progress, nowMs);
  const counts = progress.task === "export" ? "" : ` ${progress.done}/${progress.total}`;
  const text = [
    `${progress.task} ${"█".repeat(full)}${"░".repeat(cells - full)} ${
      String(Math.floor(share * 100)).padStart(3)
    } %${counts}`,
    left === undefined || share === 1 ? "" : `${formatDuration(left)} left`,
    shorten(progress.subject),
    progress.detail,
  ].filter(Boolean).join("  ");
  return text.slice(0, Math.max(20, width - 1));
}

/** A plain line for logs. */
export function renderLine(progress: Progress, nowMs: number): string {
  const share = progress.total === 0 ? 100 : Math.floor(100 * Math.min(1, progress.done / progress.total));
  const left = secondsLeft(progress, nowMs);
  const counts = progress.task === "export" ? `${share} %` : `${progress.done}/${progress.total}`;
  const time = left === undefined || progress.done === progress.total ? "" : `${formatDuration(left)} left`;
  return [`${progress.task} ${counts}`, progress.subject, progress.detail, time].filter(Boolean).join("  ");
}

/** Weight names without the parts that all have. */
function shorten(name: string): string {
  return name.replace(/^model\./, "").replace(/\.weight$/, "");
}
