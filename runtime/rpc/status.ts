/**
 * SpiffeError to gRPC status and back: the one mapping. How the details look as bytes is left to `details.ts`.
 */
import { Metadata, status as grpcStatus } from '@grpc/grpc-js';
import type { StatusObject } from '@grpc/grpc-js';
import { errorKinds, SpiffeError } from '../../spiffe/errors.ts';
import type { ErrorDetail, ErrorKind } from '../../spiffe/errors.ts';
import {
  decodeErrorInfo,
  decodePermissionDenied,
  decodeRichStatus,
  encodeErrorInfo,
  encodeRichStatus,
  errorInfoUrl,
  permissionDeniedReasons,
  permissionDeniedUrl,
} from './details.ts';
import type { PermissionDeniedReason, RichStatus, StatusDetail } from './details.ts';

/** Total, so a new kind without a code does not compile; no two kinds share a code, so it reads backwards too. */
export const statusOfKind: Readonly<Record<ErrorKind, grpcStatus>> = {
  invalid: grpcStatus.INVALID_ARGUMENT,
  unauthenticated: grpcStatus.UNAUTHENTICATED,
  denied: grpcStatus.PERMISSION_DENIED,
  missing: grpcStatus.NOT_FOUND,
  exists: grpcStatus.ALREADY_EXISTS,
  conflict: grpcStatus.FAILED_PRECONDITION,
  limited: grpcStatus.RESOURCE_EXHAUSTED,
  unavailable: grpcStatus.UNAVAILABLE,
  unsupported: grpcStatus.UNIMPLEMENTED,
  internal: grpcStatus.INTERNAL,
};

/** What foreign errors become when no ErrorInfo of ours says more. */
const kindOfStatus: ReadonlyMap<number, ErrorKind> = new Map<number, ErrorKind>([
  ...errorKinds.map((kind) => [statusOfKind[kind], kind] as const),
  [grpcStatus.CANCELLED, 'unavailable'],
  [grpcStatus.DEADLINE_EXCEEDED, 'unavailable'],
  [grpcStatus.ABORTED, 'conflict'],
  [grpcStatus.OUT_OF_RANGE, 'invalid'],
]);

export const errorDomain = 'steeple';

// A status travels in trailers, for which peers allow 8 KiB; what is cut here is still whole in this side's log.
const maxMessage = 1_024;
const maxDetailText = 256;
const maxDetailEntries = 16;
const detailsKey = 'grpc-status-details-bin';
const genericMessage = 'internal error';

/** A status ready to send. `incident` is set when the true cause stays here, to be logged under that id. */
export interface OutgoingStatus {
  readonly code: grpcStatus;
  readonly details: string;
  readonly metadata: Metadata;
  readonly reason: string;
  readonly incident: string | undefined;
}

export interface StatusOptions {
  /** Further details for peers that know other types, such as `permissionDeniedDetail`. */
  readonly details?: readonly StatusDetail[];
  /** Names an error that is not ours; called at most once. */
  readonly newIncident: () => string;
}

/** Causes never cross the wire; of what is not a SpiffeError nothing does but the incident id. */
export function toStatus(error: unknown, options: StatusOptions): OutgoingStatus {
  if (error instanceof SpiffeError) return outgoing(error, options.details ?? [], undefined);
  const incident = options.newIncident();
  return outgoing(
    new SpiffeError('internal', 'internal', `${genericMessage} (incident ${incident})`, { detail: { incident } }),
    [],
    incident,
  );
}

/** Code and message alone, as batch answers carry them per item. */
export function toItemStatus(error: unknown, newIncident: () => string): { code: number; message: string; incident?: string } {
  const status = toStatus(error, { newIncident });
  const item = { code: status.code, message: status.details };
  return status.incident === undefined ? item : { ...item, incident: status.incident };
}

function outgoing(error: SpiffeError, extra: readonly StatusDetail[], incident: string | undefined): OutgoingStatus {
  const code = statusOfKind[error.kind];
  const message = bounded(error.message, maxMessage);
  const info = encodeErrorInfo({
    reason: bounded(error.reason, maxDetailText),
    domain: errorDomain,
    metadata: Object.fromEntries(
      Object.entries(error.detail)
        .slice(0, maxDetailEntries)
        .map(([key, value]) => [bounded(key, 64), bounded(String(value), maxDetailText)]),
    ),
  });
  const metadata = new Metadata();
  metadata.set(detailsKey, encodeRichStatus({ code, message, details: [info, ...extra] }));
  return { code, details: message, metadata, reason: error.reason, incident };
}

/** What a failed call throws in grpc-js, as far as it is used here. */
export type IncomingStatus = Pick<StatusObject, 'code' | 'details'> & { readonly metadata?: Metadata | undefined };

/**
 * The same SpiffeError the peer threw, if it is one of ours; otherwise the nearest one. SPIRE's refusals of agents come
 * as denied `peer.agent-expired|agent-not-attested|agent-not-active|agent-banned|agent-must-reattest`; whatever the
 * origin, `permissionDeniedReason` reads them.
 */
export function fromStatus(status: IncomingStatus): SpiffeError {
  const kind = kindOfStatus.get(status.code) ?? 'internal';
  const message = bounded(status.details, maxMessage);
  const rich = richStatusOf(status.metadata);
  const info = detailOf(rich, errorInfoUrl, decodeErrorInfo);
  const denied = detailOf(rich, permissionDeniedUrl, decodePermissionDenied);
  const permission: ErrorDetail = denied === undefined ? {} : { permissionDenied: denied };
  if (info?.domain === errorDomain && info.reason !== '') {
    return new SpiffeError(kind, bounded(info.reason, maxDetailText), message, {
      detail: { ...boundedDetail(info.metadata), ...permission },
    });
  }
  const detail = { status: grpcStatus[status.code] ?? String(status.code), ...permission };
  return new SpiffeError(kind, foreignReason(status.code, denied), message, { detail });
}

/** Why the server refuses this agent, if the error says so. */
export function permissionDeniedReason(error: SpiffeError): PermissionDeniedReason | undefined {
  const reason = error.detail['permissionDenied'];
  return permissionDeniedReasons.find((known) => known === reason);
}

function foreignReason(code: number, denied: PermissionDeniedReason | undefined): string {
  if (denied !== undefined && denied !== 'UNKNOWN') return `peer.${denied.toLowerCase().replaceAll('_', '-')}`;
  if (code === grpcStatus.DEADLINE_EXCEEDED) return 'rpc.deadline';
  if (code === grpcStatus.CANCELLED) return 'rpc.cancelled';
  const name = grpcStatus[code];
  return name === undefined ? 'peer.unknown' : `peer.${name.toLowerCase().replaceAll('_', '-')}`;
}

function richStatusOf(metadata: Metadata | undefined): RichStatus | undefined {
  const value = metadata?.get(detailsKey)[0];
  return Buffer.isBuffer(value) ? decodeRichStatus(value) : undefined;
}

function detailOf<T>(rich: RichStatus | undefined, typeUrl: string, decode: (bytes: Uint8Array) => T | undefined): T | undefined {
  const found = rich?.details.find((detail) => detail.typeUrl === typeUrl);
  return found === undefined ? undefined : decode(found.value);
}

function boundedDetail(metadata: Readonly<Record<string, string>>): ErrorDetail {
  return Object.fromEntries(
    Object.entries(metadata)
      .slice(0, maxDetailEntries)
      .map(([key, value]) => [bounded(key, 64), bounded(value, maxDetailText)]),
  );
}

/** Well-formed, because a lone surrogate cannot be percent-encoded into a trailer, and short. */
function bounded(value: string, length: number): string {
  return (value.length > length ? `${value.slice(0, length - 1)}…` : value).toWellFormed();
}
