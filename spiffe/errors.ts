/**
 * The one error class of the house: a closed kind, a dotted reason owned by the throwing module, and a message that is
 * safe to show to whoever called. Mapping kinds to gRPC is left to `runtime/rpc/status.ts`.
 */

/** Closed on purpose: a new kind without a row in the gRPC table does not compile. */
export const errorKinds = [
  'invalid',
  'unauthenticated',
  'denied',
  'missing',
  'exists',
  'conflict',
  'limited',
  'unavailable',
  'unsupported',
  'internal',
] as const;

/** What a caller can do about an error: one of `errorKinds`. */
export type ErrorKind = (typeof errorKinds)[number];

/** Only what is safe to log and to send: never key material, never a token, never an unbounded text of a caller. */
export type ErrorDetail = Readonly<Record<string, string | number | boolean>>;

export interface ErrorContext {
  readonly detail?: ErrorDetail;
  /** Kept for logs on this side; never crosses the wire. */
  readonly cause?: unknown;
}

/**
 * @property kind what the caller can do about it
 * @property reason stable dotted name, written as a literal where it is thrown and listed in `docs/errors.md`
 * @property message one sentence for people; crosses the wire
 */
export class SpiffeError extends Error {
  readonly kind: ErrorKind;
  readonly reason: string;
  readonly detail: ErrorDetail;

  constructor(kind: ErrorKind, reason: string, message: string, context: ErrorContext = {}) {
    super(message, context.cause === undefined ? undefined : { cause: context.cause });
    this.name = 'SpiffeError';
    this.kind = kind;
    this.reason = reason;
    this.detail = context.detail ?? {};
  }
}

/** True for an error of ours, of `kind` and `reason` when they are given. */
export function isSpiffeError(error: unknown, kind?: ErrorKind, reason?: string): error is SpiffeError {
  return (
    error instanceof SpiffeError &&
    (kind === undefined || error.kind === kind) &&
    (reason === undefined || error.reason === reason)
  );
}
