/**
 * Calls between the two sides of a worker: each side answers the other's, and messages keep their order.
 *
 * @module
 */

/** Where messages go: a worker, or the scope inside it. */
export interface Port {
  postMessage(message: unknown): void;
  onmessage: ((event: MessageEvent) => void) | null;
}

/** What answers calls, by name; a plain return value is fine. */
export type Handlers = Readonly<Record<string, (...args: never[]) => unknown>>;

/** One side. */
export interface Peer {
  /**
   * Asks the other side and waits for its answer.
   *
   * @throws {Error} with the other side's message and class, or why the worker was ended.
   */
  call(method: string, ...args: unknown[]): Promise<unknown>;
  /** Tells the other side something; what goes wrong there is not heard of here. */
  post(method: string, ...args: unknown[]): void;
  /** Fails everything that waits, and everything asked later. */
  close(reason: Error): void;
}

type Message =
  | { readonly type: "call"; readonly id: number; readonly method: string; readonly args: unknown[] }
  | { readonly type: "post"; readonly method: string; readonly args: unknown[] }
  | { readonly type: "answer"; readonly id: number; readonly value: unknown }
  | { readonly type: "error"; readonly id: number; readonly name: string; readonly message: string };

/** Classes that errors keep on the other side, as they tell whose mistake it was. */
const CLASSES: Readonly<Record<string, new (message: string) => Error>> = { RangeError, TypeError, SyntaxError };

/** Makes the side at `port`. */
export function createPeer(port: Port, handlers: Handlers): Peer {
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  let next = 0;
  let closed: Error | undefined;
  const run = async (method: string, args: unknown[]): Promise<unknown> => {
    if (!Object.hasOwn(handlers, method)) throw new TypeError(`Cannot answer "${method}": there is no such call`);
    return await handlers[method](...args as never[]);
  };
  port.onmessage = ({ data }: MessageEvent<Message>) => {
    if (data.type === "post") void run(data.method, data.args).catch(() => {});
    else if (data.type === "call") {
      run(data.method, data.args).then(
        (value) => port.postMessage({ type: "answer", id: data.id, value } satisfies Message),
        (error) => {
          const { name = "Error", message = String(error) } = error instanceof Error ? error : {};
          port.postMessage({ type: "error", id: data.id, name, message } satisfies Message);
        },
      );
    } else {
      const asked = waiting.get(data.id);
      waiting.delete(data.id);
      if (data.type === "answer") asked?.resolve(data.value);
      else asked?.reject(new (CLASSES[data.name] ?? Error)(String(data.message)));
    }
  };
  return {
    call(method, ...args) {
      if (closed !== undefined) return Promise.reject(closed);
      return new Promise((resolve, reject) => {
        const id = next++;
        waiting.set(id, { resolve, reject });
        try {
          port.postMessage({ type: "call", id, method, args } satisfies Message);
        } catch (cause) {
          waiting.delete(id);
          reject(new TypeError(`Cannot send "${method}" to the other side: ${(cause as Error).message}`, { cause }));
        }
      });
    },
    post(method, ...args) {
      if (closed === undefined) port.postMessage({ type: "post", method, args } satisfies Message);
    },
    close(reason) {
      closed = reason;
      for (const { reject } of waiting.values()) reject(reason);
      waiting.clear();
    },
  };
}
