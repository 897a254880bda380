/**
 * A node joins and stays: evidence to agent ID, then record and intent of its SVID in one transaction, then the SVID.
 * Which evidence convinces is the verifiers', whether an agent may call is `standing.ts`.
 */
import { untilAborted } from '../../runtime/abort.ts';
import type { Clock } from '../../runtime/clock.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { isMemberOf, pathOf, serverId, type SpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import { canonicalSelectors } from '../../spiffe/selector.ts';
import { parseRequest } from '../../spiffe/x509/request.ts';
import type { AuditEvent } from '../audit/event.ts';
import { witnessRefusal } from '../audit/scope.ts';
import type { Issuer } from '../authority/issue.ts';
import type { IssuedX509Svid } from '../authority/sign.ts';
import type { AgentRecord, Scope, Store } from '../store/store.ts';
import { createToken, hashToken, type CreatedToken, type TokenRequest } from './join-token.ts';
import { addressAccount, type AdmissionGate } from './limits.ts';
import type { Agents } from './standing.ts';
import type { VerifiedNode, Verifier } from './verifier.ts';

export interface NodeEvidence {
  readonly type: string;
  readonly payload: Uint8Array;
  /** PKCS#10; nothing but its public key is used. */
  readonly csr: Uint8Array;
  readonly address: string;
}

export interface AdmittedNode {
  readonly svid: IssuedX509Svid;
  readonly canReattest: boolean;
}

export interface AdmissionDeps {
  readonly trustDomain: TrustDomain;
  readonly clock: Pick<Clock, 'now'>;
  readonly verifiers: readonly Verifier[];
  readonly gate: AdmissionGate;
  readonly agents: Agents;
  readonly issuer: Pick<Issuer, 'prepareAgentSvid'>;
  readonly store: Pick<Store, 'admitAgent' | 'renewAgent' | 'createJoinToken'>;
  readonly recordRefusals: (events: readonly AuditEvent[]) => Promise<void>;
}

export interface Admission {
  /**
   * @throws conflict `admission.unknown-type`, invalid `admission.agent-id`, `admission.csr`, `token.unknown|expired`, denied
   *   `agent.banned|already-attested`, limited `admission.failures|queue`, and what verifier, store and keys throw
   */
  admit(
    evidence: NodeEvidence,
    challenge: (bytes: Uint8Array) => Promise<Uint8Array>,
    scope: Scope,
    signal: AbortSignal,
  ): Promise<AdmittedNode>;
  /**
   * @throws missing `agent.unknown`, denied `agent.must-reattest|banned`, invalid `admission.csr`, and what store and keys
   *   throw
   */
  renew(agent: AgentRecord, csr: Uint8Array, scope: Scope): Promise<IssuedX509Svid>;
  /** @throws as `createToken` */
  createToken(asked: TokenRequest, scope: Scope): Promise<CreatedToken>;
}

export function createAdmission(deps: AdmissionDeps): Admission {
  const { trustDomain, clock, gate, agents, issuer, store } = deps;
  const verifiers = new Map(deps.verifiers.map((verifier) => [verifier.type, verifier]));

  const record = async (node: VerifiedNode, type: string, publicKey: Uint8Array, scope: Scope): Promise<AdmittedNode> => {
    const { agentId, canReattest, tokenHash, firstUseOnly = false } = node;
    checkAgentId(agentId, trustDomain);
    if (agents.get(agentId)?.serial === '') throw banned(agentId);
    const svid = issuer.prepareAgentSvid({ agentId, publicKey, reason: 'attested' });
    const agent: AgentRecord = {
      id: agentId,
      attestationType: type,
      serial: svid.serial,
      expiresAt: svid.expiresAt,
      pendingSerial: '',
      pendingExpiresAt: 0,
      selectors: canonicalSelectors(node.selectors),
      canReattest,
      agentVersion: '',
      attestedAt: scope.at,
    };
    await store.admitAgent({ agent, tokenHash, firstUseOnly, intent: svid.intent }, scope);
    return { svid: await svid.complete(), canReattest };
  };

  return {
    async admit({ type, payload, csr, address }, challenge, scope, signal) {
      const accounts = [addressAccount(address), ...(type === 'join_token' ? [`token ${hashToken(bytesText(payload))}`] : [])];
      try {
        return await gate.run(
          { accounts },
          async (pause) => {
            const verifier = verifiers.get(type);
            if (verifier === undefined) throw unknownType(type);
            // Read first: a node whose request is bad should keep its token.
            const publicKey = readPublicKey(csr);
            const pose = (bytes: Uint8Array): Promise<Uint8Array> => pause(() => untilAborted(challenge(bytes), signal));
            const outside = <T>(wait: () => Promise<T>): Promise<T> => pause(() => untilAborted(wait(), signal));
            const node = await verifier.verify(payload, pose, { trustDomain, remoteAddress: address, at: clock.now(), outside });
            return record(node, type, publicKey, { ...scope, at: clock.now() });
          },
          countsAsFailure,
        );
      } catch (error) {
        const told = inContractWords(error);
        if (told instanceof SpiffeError && told.kind !== 'internal') {
          const detail = { type: type.slice(0, 64), address };
          await deps.recordRefusals([witnessRefusal(scope, 'agent.refused', { subject: '', reason: told.reason, detail })]);
        }
        throw told;
      }
    },

    async renew({ id }, csr, scope) {
      // Not the record the call came in with: it may have changed since.
      const agent = agents.get(id);
      if (agent === undefined) throw new SpiffeError('missing', 'agent.unknown', 'agent not found');
      if (agent.canReattest) throw new SpiffeError('denied', 'agent.must-reattest', 'agent must reattest instead of renew');
      const { renewableMs = Infinity } = verifiers.get(agent.attestationType) ?? {};
      if (clock.now() - agent.attestedAt >= renewableMs) {
        throw new SpiffeError('denied', 'agent.must-reattest', 'agent has been renewed for as long as its evidence allows');
      }
      const svid = issuer.prepareAgentSvid({ agentId: id, publicKey: readPublicKey(csr), reason: 'renewed' });
      await store.renewAgent(id, { serial: svid.serial, expiresAt: svid.expiresAt }, svid.intent, scope);
      return svid.complete();
    },

    createToken: (asked, scope) => createToken(store, clock, asked, scope),
  };
}

/** Any ID of the trust domain but its own and the server's [wire contract of SPIRE, AttestAgent]. */
function checkAgentId(id: SpiffeId, trustDomain: TrustDomain): void {
  if (!isMemberOf(id, trustDomain) || pathOf(id) === '' || id === serverId(trustDomain)) {
    const message = 'the evidence yields an ID that no agent may have';
    throw new SpiffeError('internal', 'admission.agent-id', message, { detail: { id } });
  }
}

/** The signature of the request is not looked at: the evidence speaks for the node, the key is worth nothing to others. */
function readPublicKey(csr: Uint8Array): Uint8Array {
  try {
    return Uint8Array.from(parseRequest(csr).publicKey);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    const context = { detail: { reason: cause.reason }, cause };
    throw new SpiffeError('invalid', 'admission.csr', `failed to parse CSR: ${cause.message}`, context);
  }
}

/** What a guesser would see; an overloaded or failing server is nobody's guess. */
function countsAsFailure(error: unknown): boolean {
  return error instanceof SpiffeError && ['invalid', 'unauthenticated', 'denied', 'conflict', 'unsupported'].includes(error.kind);
}

function inContractWords(error: unknown): unknown {
  if (isSpiffeError(error, 'invalid', 'token.unknown')) {
    const message = 'failed to attest: join token does not exist or has already been used';
    return new SpiffeError('invalid', 'token.unknown', message, { cause: error });
  }
  if (isSpiffeError(error, 'denied', 'agent.banned')) {
    return new SpiffeError('denied', 'agent.banned', 'failed to attest: agent is banned', { cause: error });
  }
  return error;
}

function banned(id: SpiffeId): SpiffeError {
  return new SpiffeError('denied', 'agent.banned', 'failed to attest: agent is banned', { detail: { agentId: id } });
}

function unknownType(type: string): SpiffeError {
  const name = JSON.stringify(type.slice(0, 64));
  const message = `error getting node attestor: could not find node attestor type ${name}`;
  return new SpiffeError('conflict', 'admission.unknown-type', message);
}

function bytesText(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}
