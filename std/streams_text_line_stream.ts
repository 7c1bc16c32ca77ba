/**
 * `@std/streams/text-line-stream` for machines that cannot reach JSR.
 *
 * @module
 */

/** Options of {@linkcode TextLineStream}. */
export interface TextLineStreamOptions {
  /** Also split at a lone `\r`. Default false. */
  allowCR?: boolean;
}

/** Splits text chunks into lines at `\n` and `\r\n`; a last line without an end is emitted, an empty one is not. */
export class TextLineStream extends TransformStream<string, string> {
  /** Makes a stream with `options`. */
  constructor(options: TextLineStreamOptions = {}) {
    const allowCR = options.allowCR ?? false;
    let rest = "";
    super({
      transform(chunk, controller) {
        rest += chunk;
        // A carriage return at the end of a chunk may be half of "\r\n".
        const end = allowCR && rest.endsWith("\r") ? rest.length - 1 : rest.length;
        const lines = rest.slice(0, end).split(allowCR ? /\r\n|\n|\r/ : /\r?\n/);
        rest = lines.pop()! + rest.slice(end);
        for (const line of lines) controller.enqueue(line);
      },
      flush(controller) {
        if (rest.length === 0) return;
        controller.enqueue(allowCR && rest.endsWith("\r") ? rest.slice(0, -1) : rest);
      },
    });
  }
}
