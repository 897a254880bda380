/**
 * Two ways to have credentials signed, as messages: the lean batches of a Steeple server, and the requests that SPIRE's
 * servers take. Which is used is decided by `firstSupported` in `signer.ts`.
 */
import { jwtSvidFromMessage, x509SvidFromMessage } from '../../proto/convert/svid.ts';
import { integerFromText } from '../../proto/convert/scalar.ts';
import type { Status__Output } from '../../proto/gen/spire/api/types/Status.ts';
import type { Process as ProcessMessage } from '../../proto/gen/steeple/node/v1/Process.ts';
import type { Refusal__Output } from '../../proto/gen/steeple/node/v1/Refusal.ts';
import { errorKinds, isSpiffeError, SpiffeError, type ErrorKind } from '../../spiffe/errors.ts';
import { composeRequest } from '../../spiffe/x509/request.ts';
import type { RpcClient } from '../../runtime/rpc/call.ts';
import { fromStatus } from '../../runtime/rpc/status.ts';
import type { WorkloadProcess } from '../process.ts';
import { agentServices } from '../node/wire.ts';
import type { Signer, WitSigned, X509Outcome } from './signer.ts';

const leanBatch = 100;

/** Public keys over a connection that proves who asks. */
export function leanSigner(client: RpcClient): Signer {
  const issue = agentServices()['steeple.node.v1.Node'].Issue;
  return {
    largestBatch: leanBatch,
    async signX509(requests, signal) {
      const response = await client.unary(
        issue,
        {
          x509: requests.map(({ entry, keys, process }) => ({
            entry_id: entry.id,
            public_key: Buffer.from(keys.publicKey),
            process: processToMessage(process),
          })),
        },
        { signal },
      );
      return response.x509.map((result): X509Outcome => {
        const refused = refusalFromMessage(result.refusal);
        // Copied: decoded bytes are a window on the whole received message.
        return refused === undefined ? { chain: result.cert_chain.map((der) => Uint8Array.from(der)) } : { refused };
      });
    },
    async signWit(requests, signal) {
      const wit = requests.map(({ entry, keys, process }) => ({
        entry_id: entry.id,
        public_key: Buffer.from(keys.publicKey),
        algorithm: 'ES256',
        process: processToMessage(process),
      }));
      const response = await client.unary(issue, { wit }, { signal });
      // A server that does not know the field answers nothing at all.
      if (response.wit.length === 0) throw new SpiffeError('unsupported', 'signer.wit', 'the server does not know WIT-SVIDs');
      return response.wit.map((result): WitSigned => {
        const refused = refusalFromMessage(result.refusal);
        return refused === undefined ? { token: result.token } : { refused };
      });
    },
    async signJwt({ entry, audience, process }, signal) {
      const request = { entry_id: entry.id, audience: [...audience], process: processToMessage(process) };
      const [result] = (await client.unary(issue, { jwt: [request] }, { signal })).jwt;
      if (result === undefined) throw new SpiffeError('internal', 'signer.answer-missing', 'the server left the request without an answer');
      const refused = refusalFromMessage(result.refusal);
      if (refused !== undefined) throw refused;
      return {
        token: result.token,
        issuedAt: integerFromText(result.issued_at_ms, 'issued_at_ms'),
        expiresAt: integerFromText(result.expires_at_ms, 'expires_at_ms'),
      };
    },
  };
}

const spireBatch = 500;

/** Certification requests, one per entry; after a failed call batches are halved until one works. */
export function spireSigner(client: RpcClient): Signer {
  const service = agentServices()['spire.api.server.svid.v1.SVID'];
  let batch = spireBatch;
  return {
    get largestBatch() {
      return batch;
    },
    async signX509(requests, signal) {
      const params = requests.map(({ entry, keys }) => ({
        entry_id: entry.id,
        csr: Buffer.from(composeRequest({ privateKey: keys.privateKey, publicKey: keys.publicKey, uris: [entry.spiffeId] })),
      }));
      try {
        const { results } = await client.unary(service.BatchNewX509SVID, { params }, { signal });
        batch = Math.min(spireBatch, batch * 2);
        return results.map((result): X509Outcome => {
          const refused = statusError(result.status);
          if (refused !== undefined) return { refused };
          try {
            return { chain: x509SvidFromMessage(result.svid).certificates };
          } catch (error) {
            if (isSpiffeError(error)) return { refused: error };
            throw error;
          }
        });
      } catch (error) {
        batch = Math.max(1, Math.floor(batch / 2));
        throw error;
      }
    },
    async signWit(requests, signal) {
      const params = requests.map(({ entry, keys }) => ({
        entry_id: entry.id,
        public_key: Buffer.from(keys.publicKey),
        signing_algorithm: 'ES256',
      }));
      const { results } = await client.unary(service.BatchNewWITSVID, { params }, { signal });
      return results.map((result): WitSigned => {
        const refused = statusError(result.status);
        return refused === undefined ? { token: result.svid?.token ?? '' } : { refused };
      });
    },
    async signJwt({ entry, audience }, signal) {
      const response = await client.unary(service.NewJWTSVID, { entry_id: entry.id, audience: [...audience] }, { signal });
      return jwtSvidFromMessage(response.svid);
    },
  };
}

function statusError(status: Status__Output | null): SpiffeError | undefined {
  if (status === null || status.code === 0) return undefined;
  return fromStatus({ code: status.code, details: status.message });
}

/** A refusal of a kind that is not known counts as internal: it is tried again. */
function refusalFromMessage(refusal: Refusal__Output | null): SpiffeError | undefined {
  if (refusal === null || refusal.kind === '') return undefined;
  const kind: ErrorKind = errorKinds.find((known) => known === refusal.kind) ?? 'internal';
  return new SpiffeError(kind, refusal.reason, refusal.message);
}

export function processToMessage(process: WorkloadProcess | undefined): ProcessMessage | null {
  if (process === undefined) return null;
  return { pid: process.pid, start_time: process.startTime, uid: process.uid, gid: process.gid, path: process.path };
}
