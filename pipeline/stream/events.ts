/**
 * What a run reports. The library never prints: the command line renders these as a bar, as lines or as JSON.
 *
 * @module
 */

/** Progress of a run, discriminated by `type`. */
export type DbfEvent =
  | {
    readonly type: "run-start";
    readonly layers: number;
    readonly resumedLayers: number;
    readonly provider: string;
    readonly binding: string;
  }
  | { readonly type: "stage-start"; readonly stage: string; readonly subject: string }
  | {
    readonly type: "stage-progress";
    readonly stage: string;
    readonly subject: string;
    readonly done: number;
    readonly total: number;
    readonly detail?: Readonly<Record<string, number>>;
  }
  | {
    readonly type: "stage-end";
    readonly stage: string;
    readonly subject: string;
    readonly elapsedMs: number;
    readonly detail?: Readonly<Record<string, number>>;
  }
  | {
    readonly type: "layer-committed";
    readonly layer: string;
    readonly kind: string;
    readonly bytes: number;
    readonly weightedError?: number;
    readonly done: number;
    readonly total: number;
  }
  | {
    readonly type: "export-progress";
    readonly tensor: string;
    readonly bytesDone: number;
    readonly bytesTotal: number;
  }
  | { readonly type: "notice"; readonly message: string }
  | { readonly type: "run-end"; readonly elapsedMs: number };
