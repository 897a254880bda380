/**
 * SPIRE's signing service: credentials for entries that polling agents hold, and those that operators mint. What is
 * signed is decided in `authority/`; our own agents use the leaner call of `node.ts`.
 */
import { workloadIdFromMessage } from '../../proto/convert/id.ts';
import { jwtSvidToMessage, x509SvidToMessage } from '../../proto/convert/svid.ts';
import type { SPIFFEID__Output } from '../../proto/gen/spire/api/types/SPIFFEID.ts';
import type { NewWITSVIDParams__Output } from '../../proto/gen/spire/api/server/svid/v1/NewWITSVIDParams.ts';
import type { WITSVID } from '../../proto/gen/spire/api/types/WITSVID.ts';
import type { X509SVID } from '../../proto/gen/spire/api/types/X509SVID.ts';
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import { type Issuer, svidOf, witDisabled } from '../authority/issue.ts';
import type { IssuedJwtSvid, IssuedX509Svid, Outcome } from '../authority/sign.ts';
import type { Scope } from '../store/store.ts';
import { agentOf, scopeOf } from './caller.ts';
import type { Handlers } from './handlers.ts';
import { type ItemStatus, okStatus, statusOf } from './item-status.ts';

/** Reads requests and checks that their senders have the keys; one answer for each, in order. */
export interface Proofs {
  check(requests: readonly Uint8Array[]): Promise<readonly (Uint8Array | SpiffeError)[]>;
}

/** What operators have signed without an entry. */
export interface Mint {
  mintX509(csr: Uint8Array, ttlSeconds: number, scope: Scope): Promise<IssuedX509Svid>;
  mintJwt(
    asked: { readonly spiffeId: SpiffeId; readonly audience: readonly string[]; readonly ttlSeconds: number },
    scope: Scope,
  ): Promise<IssuedJwtSvid>;
  mintWit(
    asked: {
      readonly spiffeId: SpiffeId;
      readonly publicKey: Uint8Array;
      readonly algorithm: string;
      readonly ttlSeconds: number;
    },
    scope: Scope,
  ): Promise<IssuedJwtSvid>;
}

export interface SvidsDeps {
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  readonly issuer: Pick<Issuer, 'issueX509' | 'issueJwt' | 'issueWit'>;
  /** Whether WIT-SVIDs are issued here. */
  readonly wit: boolean;
  readonly proofs: Proofs;
  readonly mint: Mint;
}

interface X509ItemResult {
  status: ItemStatus;
  svid?: X509SVID;
}

interface WitItemResult {
  status: ItemStatus;
  svid?: WITSVID;
}

export function createSvidsApi(deps: SvidsDeps): Handlers<'spire.api.server.svid.v1.SVID'> {
  const { trustDomain, clock, issuer, proofs, mint } = deps;

  return {
    async BatchNewX509SVID({ params }, caller) {
      if (params.length === 0) throw new SpiffeError('invalid', 'svid.params', 'missing parameters');
      const items = params.map(({ entry_id, csr }) => ({ entryId: entry_id, csr, error: missingPart(entry_id, csr) }));
      const readable = items.filter((item) => item.error === undefined);
      const proved = await proofs.check(readable.map((item) => item.csr));
      const keys = new Map(readable.map((item, index) => [item, proved[index]]));
      const granted = readable.flatMap((item) => {
        const publicKey = keys.get(item);
        return publicKey instanceof Uint8Array ? [{ item, request: { entryId: item.entryId, publicKey, process: '' } }] : [];
      });
      const scope = scopeOf(caller, clock.now());
      const outcomes = await issuer.issueX509(
        granted.map(({ request }) => request),
        { agentId: agentOf(caller).id, scope },
      );
      const issued = new Map(granted.map(({ item }, index) => [item, outcomes[index]]));
      return {
        results: items.map((item): X509ItemResult => {
          const fault = item.error ?? keys.get(item);
          return fault instanceof SpiffeError ? { status: statusOf(fault, '') } : x509Result(issued.get(item));
        }),
      };
    },

    async NewJWTSVID({ entry_id, audience }, caller) {
      if (entry_id === '') throw new SpiffeError('invalid', 'svid.entry-id', 'missing entry ID');
      if (audience.length === 0) throw new SpiffeError('invalid', 'svid.audience', 'at least one audience is required');
      const scope = scopeOf(caller, clock.now());
      const asked = { entryId: entry_id, audience, process: '' };
      const [outcome] = await issuer.issueJwt([asked], { agentId: agentOf(caller).id, scope });
      if (outcome === undefined) throw new SpiffeError('internal', 'svid.batch', 'the issuer did not answer');
      return { svid: jwtSvidToMessage(svidOf(outcome)) };
    },

    async MintX509SVID({ csr, ttl }, caller) {
      if (csr.length === 0) throw new SpiffeError('invalid', 'mint.csr', 'missing CSR');
      const svid = await mint.mintX509(csr, Math.max(ttl, 0), scopeOf(caller, clock.now()));
      return { svid: x509SvidToMessage(svid) };
    },

    async MintJWTSVID({ id, audience, ttl }, caller) {
      if (id === null) throw new SpiffeError('invalid', 'mint.id', 'missing SPIFFE ID');
      const spiffeId = mintedId(id, trustDomain);
      if (audience.length === 0) throw new SpiffeError('invalid', 'svid.audience', 'at least one audience is required');
      const asked = { spiffeId, audience, ttlSeconds: Math.max(ttl, 0) };
      return { svid: jwtSvidToMessage(await mint.mintJwt(asked, scopeOf(caller, clock.now()))) };
    },

    async MintWITSVID({ id, public_key, ttl, signing_algorithm }, caller) {
      if (!deps.wit) throw witDisabled();
      if (id === null) throw new SpiffeError('invalid', 'mint.id', 'missing SPIFFE ID');
      const spiffeId = mintedId(id, trustDomain);
      if (public_key.length === 0) throw new SpiffeError('invalid', 'svid.public-key', 'missing public key');
      const publicKey = Uint8Array.from(public_key);
      const asked = { spiffeId, publicKey, algorithm: signing_algorithm, ttlSeconds: Math.max(ttl, 0) };
      return { svid: jwtSvidToMessage(await mint.mintWit(asked, scopeOf(caller, clock.now()))) };
    },

    async BatchNewWITSVID({ params }, caller) {
      if (!deps.wit) throw witDisabled();
      if (params.length === 0) throw new SpiffeError('invalid', 'svid.params', 'missing parameters');
      const items = params.map((item) => ({ item, error: missingWitPart(item) }));
      const asked = items.filter(({ error }) => error === undefined);
      const outcomes = await issuer.issueWit(
        asked.map(({ item }) => ({
          entryId: item.entry_id,
          publicKey: Uint8Array.from(item.public_key),
          algorithm: item.signing_algorithm,
          process: '',
        })),
        { agentId: agentOf(caller).id, scope: scopeOf(caller, clock.now()) },
      );
      const issued = new Map(asked.map(({ item }, index) => [item, outcomes[index]]));
      const results = items.map(({ item, error }) =>
        error === undefined ? witResult(issued.get(item)) : { status: statusOf(error, '') },
      );
      return { results };
    },

    async NewDownstreamX509CA() {
      throw new SpiffeError('unsupported', 'downstream.unsupported', 'downstream authorities are not issued by this server');
    },
  };
}

function missingPart(entryId: string, csr: Uint8Array): SpiffeError | undefined {
  if (entryId === '') return new SpiffeError('invalid', 'svid.entry-id', 'missing entry ID');
  if (csr.length === 0) return new SpiffeError('invalid', 'svid.csr', 'missing CSR');
  return undefined;
}

function x509Result(outcome: Outcome<IssuedX509Svid> | undefined): X509ItemResult {
  if (outcome === undefined) throw new SpiffeError('internal', 'svid.batch', 'the issuer answered fewer items than it was asked');
  if (outcome.status === 'refused') {
    const prefix = outcome.error.kind === 'internal' ? 'failed to sign X509-SVID' : '';
    return { status: statusOf(outcome.error, prefix) };
  }
  // SPIRE leaves the hint out here; its agents take it from the entry.
  return { status: okStatus, svid: { ...x509SvidToMessage(outcome.svid), hint: '' } };
}

function missingWitPart({ entry_id, public_key }: NewWITSVIDParams__Output): SpiffeError | undefined {
  if (entry_id === '') return new SpiffeError('invalid', 'svid.entry-id', 'missing entry ID');
  if (public_key.length === 0) return new SpiffeError('invalid', 'svid.public-key', 'missing public key');
  return undefined;
}

function witResult(outcome: Outcome<IssuedJwtSvid> | undefined): WitItemResult {
  if (outcome === undefined) throw new SpiffeError('internal', 'svid.batch', 'the issuer answered fewer items than it was asked');
  if (outcome.status === 'issued') return { status: okStatus, svid: jwtSvidToMessage(outcome.svid) };
  return { status: statusOf(outcome.error, outcome.error.kind === 'internal' ? 'failed to sign WIT-SVID' : '') };
}

/** @throws invalid `mint.id` */
function mintedId(message: SPIFFEID__Output, trustDomain: TrustDomain): SpiffeId {
  try {
    return workloadIdFromMessage(message, trustDomain);
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
    throw new SpiffeError('invalid', 'mint.id', `invalid SPIFFE ID: ${error.message}`, { cause: error });
  }
}
