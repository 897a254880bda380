/**
 * What the threads of a store say to each other, and how errors survive the way: a clone of an error would keep neither
 * kind nor reason.
 */
import { SpiffeError, errorKinds } from '../../spiffe/errors.ts';
import type { ErrorDetail, ErrorKind } from '../../spiffe/errors.ts';
import type { CommittedBatch } from './store.ts';

/** What a worker is started with. */
export interface WorkerSettings {
  /** A file, or `:memory:`. */
  readonly path: string;
  readonly trustDomain: string;
  /** Of a store that is new. */
  readonly epoch: string;
  readonly maxBytes: number | undefined;
}

export interface Request {
  readonly number: number;
  readonly name: string;
  readonly given: readonly unknown[];
  /** The caller's clock. */
  readonly at: number;
}

export type Answer =
  | { readonly number: number; readonly result: unknown }
  | { readonly number: number; readonly error: SentError };

export type WorkerMessage =
  | { readonly type: 'opened'; readonly epoch: string; readonly revision: number }
  | { readonly type: 'failed'; readonly error: SentError }
  /** All that one transaction did, and what it changed. */
  | { readonly type: 'answers'; readonly answers: readonly Answer[]; readonly batch: CommittedBatch | undefined };

export type ThreadMessage = { readonly type: 'request'; readonly request: Request } | { readonly type: 'close' };

/** Marked, so that it is found among the items of a result. */
export interface SentError {
  readonly sentError: true;
  readonly kind: ErrorKind;
  readonly reason: string;
  readonly message: string;
  readonly detail: ErrorDetail;
  readonly cause: string;
}

export function sendError(error: unknown): SentError {
  const sent = error instanceof SpiffeError ? error : undefined;
  const cause = sent === undefined ? error : sent.cause;
  return {
    sentError: true,
    kind: sent?.kind ?? 'internal',
    reason: sent?.reason ?? 'store.failed',
    message: sent?.message ?? 'the store failed',
    detail: sent?.detail ?? {},
    cause: cause instanceof Error ? (cause.stack ?? cause.message) : '',
  };
}

export function receiveError(sent: SentError): SpiffeError {
  const kind = errorKinds.includes(sent.kind) ? sent.kind : 'internal';
  const cause = sent.cause === '' ? {} : { cause: new Error(sent.cause) };
  return new SpiffeError(kind, sent.reason, sent.message, { detail: sent.detail, ...cause });
}

/** Outcomes of a batch hold errors of their own. */
export function sendOutcomes(result: unknown): unknown {
  if (!Array.isArray(result)) return result;
  return result.map((item: unknown) => (isRefused(item) ? { ...item, error: sendError(item.error) } : item));
}

export function receiveOutcomes<T>(result: T): T {
  if (!Array.isArray(result)) return result;
  return result.map((item: unknown) =>
    isRefused(item) ? { ...item, error: receiveError(item.error as SentError) } : item,
  ) as T;
}

function isRefused(item: unknown): item is { readonly status: 'refused'; readonly error: unknown } {
  return typeof item === 'object' && item !== null && 'status' in item && item.status === 'refused' && 'error' in item;
}
