/**
 * `@std/testing/bdd` for machines that cannot reach JSR: `describe`/`it` with hooks, over `Deno.test` and its steps.
 *
 * @module
 */

/** A hook or the body of a test. */
export type TestBody = (context?: Deno.TestContext) => void | Promise<void>;

/** Options shared by `describe` and `it`. */
export type TestOptions = Omit<Deno.TestDefinition, "name" | "fn">;

interface Hooks {
  readonly beforeAll: TestBody[];
  readonly afterAll: TestBody[];
  readonly beforeEach: TestBody[];
  readonly afterEach: TestBody[];
}

interface TestNode {
  readonly name: string;
  readonly options: TestOptions;
  readonly body: TestBody;
}

interface SuiteNode extends Hooks {
  readonly name: string;
  readonly options: TestOptions;
  readonly children: (SuiteNode | TestNode)[];
}

let current: SuiteNode | undefined;

const isSuite = (node: SuiteNode | TestNode): node is SuiteNode => "children" in node;

async function runSuite(suite: SuiteNode, ancestors: readonly SuiteNode[], context: Deno.TestContext): Promise<void> {
  const chain = [...ancestors, suite];
  // An `only` child silences its siblings.
  const only = suite.children.some((child) => child.options.only);
  try {
    for (const hook of suite.beforeAll) await hook(context);
    for (const child of suite.children) {
      const { permissions: _, ...options } = child.options;
      await context.step({
        ...options,
        name: child.name,
        ignore: (child.options.ignore ?? false) || (only && !child.options.only),
        fn: (step) => isSuite(child) ? runSuite(child, chain, step) : runTest(child, chain, step),
      });
    }
  } finally {
    for (const hook of suite.afterAll) await hook(context);
  }
}

async function runTest(test: TestNode, chain: readonly SuiteNode[], context: Deno.TestContext): Promise<void> {
  try {
    for (const suite of chain) for (const hook of suite.beforeEach) await hook(context);
    await test.body(context);
  } finally {
    for (const suite of [...chain].reverse()) for (const hook of suite.afterEach) await hook(context);
  }
}

function addSuite(name: string, options: TestOptions, declare: () => void): void {
  const suite: SuiteNode = {
    name,
    options,
    children: [],
    beforeAll: [],
    afterAll: [],
    beforeEach: [],
    afterEach: [],
  };
  const parent = current;
  current = suite;
  try {
    declare();
  } finally {
    current = parent;
  }
  if (parent !== undefined) parent.children.push(suite);
  else Deno.test({ ...options, name, fn: (context) => runSuite(suite, [], context) });
}

function addTest(name: string, options: TestOptions, body: TestBody): void {
  if (current !== undefined) current.children.push({ name, options, body });
  else Deno.test({ ...options, name, fn: (context) => runTest({ name, options, body }, [], context) });
}

type Add<F> = {
  (name: string, fn: F): void;
  (name: string, options: TestOptions, fn: F): void;
};

/** `describe` or `it` with its variants. */
export type Declare<F> = Add<F> & {
  /** Runs only this one. */
  only: Add<F>;
  /** Skips it. */
  ignore: Add<F>;
  /** Skips it. */
  skip: Add<F>;
};

function declare<F>(add: (name: string, options: TestOptions, fn: F) => void): Declare<F> {
  const variant = (extra: TestOptions): Add<F> => (name: string, optionsOrFn: TestOptions | F, fn?: F) =>
    fn === undefined
      ? add(name, extra, optionsOrFn as F)
      : add(name, { ...(optionsOrFn as TestOptions), ...extra }, fn);
  const skip = variant({ ignore: true });
  return Object.assign(variant({}), { only: variant({ only: true }), ignore: skip, skip });
}

/** Declares a group of tests; groups nest. */
export const describe: Declare<() => void> = declare(addSuite);

/** Declares a test. */
export const it: Declare<TestBody> = declare(addTest);

/** The same as {@linkcode it}. */
export const test: Declare<TestBody> = it;

function addHook(kind: keyof Hooks, hook: TestBody): void {
  if (current === undefined) throw new TypeError(`Cannot register ${kind} outside of describe()`);
  current[kind].push(hook);
}

/** Runs once before the tests of the enclosing group. */
export function beforeAll(fn: TestBody): void {
  addHook("beforeAll", fn);
}

/** Runs once after the tests of the enclosing group. */
export function afterAll(fn: TestBody): void {
  addHook("afterAll", fn);
}

/** Runs before each test of the enclosing group, outer groups first. */
export function beforeEach(fn: TestBody): void {
  addHook("beforeEach", fn);
}

/** Runs after each test of the enclosing group, inner groups first. */
export function afterEach(fn: TestBody): void {
  addHook("afterEach", fn);
}
