/**
 * Issuing: draft, check, decide, make the intent durable, sign, return. Names, life and extensions come from the entry
 * alone, and from a request only the public key; what operators mint without an entry is `mint.ts`.
 */
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { isWorkloadId, serverId, type SpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import type { AuditEvent } from '../audit/event.ts';
import { witnessRefusal } from '../audit/scope.ts';
import { createDecisionId, decideIssuance, type Decision, type Holdings } from '../governance/decide.ts';
import type { AuthorityKind, CredentialIntent, Scope } from '../store/store.ts';
import type { ActiveAuthorities, ActiveJwt } from './active.ts';
import { readyJwt, readyWit, readyX509, type JwtReady, type X509Ready } from './drafts.ts';
import type { Profile } from './profile.ts';
import { signToken, signX509, type IssuedJwtSvid, type IssuedX509Svid, type Outcome, type SignDeps } from './sign.ts';

export interface X509Request {
  readonly entryId: string;
  /** SubjectPublicKeyInfo, DER; its possession was proved. */
  readonly publicKey: Uint8Array;
  /** On whose behalf, as `CredentialIntent.process`. */
  readonly process: string;
}

export interface JwtRequest {
  readonly entryId: string;
  readonly audience: readonly string[];
  readonly process: string;
}

export interface WitRequest extends X509Request {
  /** How the key of the request proves itself; `''` for what fits it best. */
  readonly algorithm: string;
}

/** The agent that asks, and the call it asks through. */
export interface IssueCaller {
  readonly agentId: SpiffeId;
  readonly scope: Scope;
}

export interface AgentSvidRequest {
  readonly agentId: SpiffeId;
  readonly publicKey: Uint8Array;
  /** Why it is issued, for the record. */
  readonly reason: string;
}

/** An agent's SVID that is drafted and checked but not signed: its intent rides in the transaction that admits the agent. */
export interface PreparedAgentSvid {
  /** Decimal, as agent records keep it. */
  readonly serial: string;
  readonly expiresAt: number;
  readonly intent: CredentialIntent;
  /** Signs; to be called once, after the intent is durable. @throws unavailable `keys.unavailable` */
  complete(): Promise<IssuedX509Svid>;
}

export interface IssuerDeps extends SignDeps {
  readonly trustDomain: TrustDomain;
  readonly clock: Pick<Clock, 'now'>;
  readonly active: ActiveAuthorities;
  /** Taken once for each issuance. */
  readonly profile: () => Profile;
  readonly holdings: Holdings;
  /** Durable before it resolves, unless a flood is being counted. */
  readonly recordRefusals: (events: readonly AuditEvent[]) => Promise<void>;
}

export interface Issuer {
  /** One outcome for each request, in order; what the store refuses to record is refused. */
  issueX509(requests: readonly X509Request[], caller: IssueCaller): Promise<readonly Outcome<IssuedX509Svid>[]>;
  /** As `issueX509`. */
  issueJwt(requests: readonly JwtRequest[], caller: IssueCaller): Promise<readonly Outcome<IssuedJwtSvid>[]>;
  /** As `issueX509`. Where no WIT-SVIDs are issued every request is refused with unsupported `wit.disabled`, off the record. */
  issueWit(requests: readonly WitRequest[], caller: IssueCaller): Promise<readonly Outcome<IssuedJwtSvid>[]>;
  /** @throws as `checkPublicKey`; unavailable `authority.expired` */
  prepareAgentSvid(asked: AgentSvidRequest): PreparedAgentSvid;
  /** The server's own X509-SVID. @throws what store and keys throw */
  issueServerSvid(publicKey: Uint8Array): Promise<IssuedX509Svid>;
}

type Granted = Decision & { readonly allowed: true };

/** All that one item of a batch is drafted from besides its request. */
interface Occasion {
  readonly granted: Granted;
  readonly caller: IssueCaller;
  readonly at: number;
  readonly profile: Profile;
}

/** A refusal, or what may be signed once it is recorded. */
type Drafted<T> = { readonly ready: T; readonly hint: string } | { readonly error: SpiffeError };

/** Drafted in one go, before others get their turn; the next are drafted while these are being signed. */
const chunk = 64;
/** Of one call: being drafted, written or signed. */
const chunksAtOnce = 2;

export function createIssuer(deps: IssuerDeps): Issuer {
  const { trustDomain, clock, active, store } = deps;

  /** Decides and drafts; a refusal of either is an outcome and an event. */
  const ready = <T>(
    decision: Decision,
    caller: IssueCaller,
    kind: AuthorityKind,
    entryId: string,
    refusals: AuditEvent[],
    draft: (granted: Granted) => T,
  ): Drafted<T> => {
    const refuse = (error: SpiffeError): { readonly error: SpiffeError } => {
      const detail = { kind, decisionId: decision.id };
      const what = { subject: entryId.slice(0, 255), reason: error.reason, detail };
      refusals.push(witnessRefusal(caller.scope, 'credential.refused', what));
      return { error };
    };
    if (!decision.allowed) return refuse(decision.error);
    try {
      return { ready: draft(decision), hint: decision.entry.hint };
    } catch (error) {
      if (error instanceof SpiffeError) return refuse(error);
      throw error;
    }
  };

  const issueAll = async <R extends { readonly entryId: string }, D extends { readonly intent: CredentialIntent }, T>(
    requests: readonly R[],
    caller: IssueCaller,
    kind: AuthorityKind,
    draft: (request: R, occasion: Occasion) => D,
    sign: (ready: D, hint: string) => Promise<Outcome<T>>,
  ): Promise<readonly Outcome<T>[]> => {
    const profile = deps.profile();
    const chunks: Promise<readonly Outcome<T>[]>[] = [];
    for (let from = 0; from < requests.length; from += chunk) {
      // While one is written the next is drafted, and no more: others are to get their turn.
      await chunks.at(-chunksAtOnce);
      const at = clock.now();
      const refusals: AuditEvent[] = [];
      const drafted = requests.slice(from, from + chunk).map((request) => {
        const decision = decideIssuance(deps.holdings, { agentId: caller.agentId, entryId: request.entryId, at });
        const drafting = (granted: Granted): D => draft(request, { granted, caller, at, profile });
        return ready(decision, caller, kind, request.entryId, refusals, drafting);
      });
      const conclusion = conclude(drafted, refusals, sign);
      // Whatever fails is told by the wait for all; until then nobody else may be listening.
      conclusion.catch(() => undefined);
      chunks.push(conclusion);
    }
    return (await Promise.all(chunks)).flat();
  };

  /** Makes intents and refusals durable, then signs what was recorded. */
  const conclude = async <D extends { readonly intent: CredentialIntent }, T>(
    drafted: readonly Drafted<D>[],
    refusals: readonly AuditEvent[],
    sign: (ready: D, hint: string) => Promise<Outcome<T>>,
  ): Promise<readonly Outcome<T>[]> => {
    const intents = drafted.flatMap((item) => ('ready' in item ? [item.ready.intent] : []));
    const [unrecorded] = await Promise.all([
      intents.length > 0 ? failureOf(store.recordIntents(intents)) : undefined,
      refusals.length > 0 ? deps.recordRefusals(refusals) : undefined,
    ]);
    return Promise.all(
      drafted.map((item) => {
        if ('error' in item) return refused<T>(item.error);
        return unrecorded === undefined ? sign(item.ready, item.hint) : refused<T>(unrecorded);
      }),
    );
  };

  const draftX509 = (request: X509Request, { granted, caller, at, profile }: Occasion): X509Ready => {
    const { entry, id, reason } = granted;
    requireWorkload(entry.spiffeId);
    return readyX509(
      active.x509.value,
      {
        profile: 'workload',
        spiffeId: entry.spiffeId,
        entryId: entry.id,
        agentId: caller.agentId,
        decisionId: `${id}-${profile.hash}`,
        reason,
        process: request.process,
        ttlSeconds: entry.x509SvidTtlSeconds > 0 ? entry.x509SvidTtlSeconds : profile.x509SvidTtlSeconds,
        publicKey: request.publicKey,
        dnsNames: entry.dnsNames,
      },
      at,
    );
  };

  const draftJwt = (request: JwtRequest, { granted, caller, at, profile }: Occasion): JwtReady => {
    const { entry, id, reason } = granted;
    requireWorkload(entry.spiffeId);
    return readyJwt(
      active.jwt.value,
      {
        spiffeId: entry.spiffeId,
        entryId: entry.id,
        agentId: caller.agentId,
        decisionId: `${id}-${profile.hash}`,
        reason,
        process: request.process,
        ttlSeconds: entry.jwtSvidTtlSeconds > 0 ? entry.jwtSvidTtlSeconds : profile.jwtSvidTtlSeconds,
        audience: request.audience,
        issuer: profile.jwtIssuer,
        includeJti: entry.jwtSvidIncludeJti,
      },
      at,
    );
  };

  const draftWit = (authority: ActiveJwt, request: WitRequest, { granted, caller, at, profile }: Occasion): JwtReady => {
    const { entry, id, reason } = granted;
    requireWorkload(entry.spiffeId);
    return readyWit(
      authority,
      {
        spiffeId: entry.spiffeId,
        entryId: entry.id,
        agentId: caller.agentId,
        decisionId: `${id}-${profile.hash}`,
        reason,
        process: request.process,
        // Bound to a key and renewed ahead as an X509-SVID is, so an entry that shortens the one shortens the other.
        ttlSeconds: entry.x509SvidTtlSeconds > 0 ? entry.x509SvidTtlSeconds : profile.witSvidTtlSeconds,
        publicKey: request.publicKey,
        algorithm: request.algorithm,
      },
      at,
    );
  };

  const ownGrant = (at: number, profile: Profile, reason: string) => ({
    entryId: '',
    decisionId: `${createDecisionId(at)}-${profile.hash}`,
    reason,
    process: '',
    dnsNames: [],
  });

  return {
    issueX509: (requests, caller) =>
      issueAll(requests, caller, 'x509', draftX509, (item, hint) => signX509(deps, item, hint)),
    issueJwt: (requests, caller) =>
      issueAll(requests, caller, 'jwt', draftJwt, (item, hint) => signToken(deps, item, hint)),
    async issueWit(requests, caller) {
      const { wit } = active;
      if (wit === undefined) return requests.map(() => ({ status: 'refused', error: witDisabled() }));
      // The authority of the moment for each item, as of the other kinds.
      const draft = (request: WitRequest, occasion: Occasion): JwtReady => draftWit(wit.value, request, occasion);
      return issueAll(requests, caller, 'wit', draft, (item, hint) => signToken(deps, item, hint));
    },
    prepareAgentSvid({ agentId, publicKey, reason }) {
      const at = clock.now();
      const profile = deps.profile();
      const ttlSeconds = profile.agentSvidTtlSeconds;
      const grant = { ...ownGrant(at, profile, reason), spiffeId: agentId, agentId, publicKey, ttlSeconds };
      const item = readyX509(active.x509.value, { ...grant, profile: 'agent' }, at);
      return {
        serial: item.draft.serial.decimal,
        expiresAt: item.draft.notAfterAt,
        intent: item.intent,
        complete: async () => svidOf(await signX509(deps, item, '')),
      };
    },
    async issueServerSvid(publicKey) {
      const at = clock.now();
      const profile = deps.profile();
      const spiffeId = serverId(trustDomain);
      const ttlSeconds = profile.x509SvidTtlSeconds;
      const grant = { ...ownGrant(at, profile, 'own'), spiffeId, agentId: '' as const, publicKey, ttlSeconds };
      const item = readyX509(active.x509.value, { ...grant, profile: 'server' }, at);
      await store.recordIntents([item.intent]);
      return svidOf(await signX509(deps, item, ''));
    },
  };
}

/** @throws the error of a refused outcome */
export function svidOf<T>(outcome: Outcome<T>): T {
  if (outcome.status === 'refused') throw outcome.error;
  return outcome.svid;
}

export function witDisabled(): SpiffeError {
  return new SpiffeError('unsupported', 'wit.disabled', 'WIT functionality is disabled');
}

function refused<T>(error: SpiffeError): Promise<Outcome<T>> {
  return Promise.resolve({ status: 'refused', error });
}

/** What a store refused with. */
async function failureOf(work: Promise<void>): Promise<SpiffeError | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    if (error instanceof SpiffeError) return error;
    throw error;
  }
}

function requireWorkload(id: SpiffeId): void {
  if (!isWorkloadId(id)) {
    throw new SpiffeError('invalid', 'entry.not-workload', 'the SPIFFE ID of the entry is reserved, and no workload may have it');
  }
}
