import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { NodeAdmission } from '../../../agent/node/attest.ts';
import { createIdentity, type IdentityEvent, type IdentityOwner } from '../../../agent/node/identity.ts';
import type { NodeState, NodeStateFiles } from '../../../agent/node/state.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../../spiffe/bundle.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import type { X509Svid } from '../../../spiffe/x509-svid.ts';
import { testAuthority, trustDomain, type TestAuthority } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';

const hourMs = 3_600_000;
const agentId = 'spiffe://example.org/spire/agent/join_token/t';

let clock: TestClock;
let authority: TestAuthority;
let bundle: Bundle;
let disk: { state: NodeState | undefined; bundle: Bundle | undefined };
let events: IdentityEvent[];
let attest: () => Promise<NodeAdmission>;
let renew: () => Promise<X509Svid>;
let attempts: string[];
let owner: IdentityOwner;
let stop: AbortController;
let over: Promise<unknown>;

const away = new SpiffeError('unavailable', 'rpc.unreachable', 'the server is away');
const refusal = (reason: string): SpiffeError => new SpiffeError('denied', 'x', 'refused', { detail: { permissionDenied: reason } });
const svid = (): X509Svid => authority.svid(agentId, hourMs);
const kinds = (): string[] => events.map(({ what }) => what);

const files: NodeStateFiles = {
  readState: () => Promise.resolve(disk.state),
  async writeState(state) {
    disk.state = state;
  },
  readBundle: () => Promise.resolve(disk.bundle),
  async writeBundle(learned) {
    disk.bundle = learned;
  },
  async forgetState() {
    disk.state = undefined;
  },
};

function create(repeatable = false): void {
  owner = createIdentity({
    clock,
    random: () => 0.5,
    trustDomain,
    files,
    repeatable,
    firstTrust: async () => bundle,
    attest(trust) {
      attempts.push(trust === 'unverified' ? 'unverified' : 'attest');
      return attest();
    },
    renew() {
      attempts.push('renew');
      return renew();
    },
    onEvent: (event) => events.push(event),
  });
}

async function begin(repeatable = false): Promise<void> {
  create(repeatable);
  await owner.start(stop.signal);
  over = owner.run(stop.signal).catch((error: unknown) => error);
}

beforeEach(() => {
  clock = createTestClock();
  authority = testAuthority('authority', () => clock.now());
  bundle = composeBundle({ ...emptyBundle(trustDomain), x509Authorities: [{ certificate: authority.certificate, tainted: false }] });
  disk = { state: undefined, bundle: undefined };
  events = [];
  attempts = [];
  attest = async () => ({ svid: svid(), bundle, reattestable: false });
  renew = async () => svid();
  stop = new AbortController();
  over = Promise.resolve();
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
});

describe('an agent', () => {
  it('attests once and is itself again after a restart', async () => {
    await begin();
    expect(kinds()).toEqual(['attested']);
    const { svid: first } = owner.identity.value!;
    expect(owner.tls.value).toEqual({ svid: first, bundles: new Map([[trustDomain, bundle]]) });
    stop.abort(new Error('restart'));
    await over;
    stop = new AbortController();
    await begin();
    expect(kinds()).toEqual(['attested', 'resumed']);
    expect(owner.identity.value?.svid).toBe(first);
    expect(attempts).toEqual(['attest']);
  });

  it('keeps trying while the server is away, and stops when it is refused', async () => {
    attest = () => Promise.reject(away);
    create();
    const started = owner.start(stop.signal).catch((error: unknown) => error);
    await clock.runUntil(() => attempts.length === 4);
    attest = () => Promise.reject(new SpiffeError('invalid', 'token.unknown', 'already used'));
    await clock.runUntil(() => attempts.length === 5);
    expect(await started).toMatchObject({ kind: 'denied', reason: 'identity.must-rejoin' });
  });

  it('names what is wrong on its own side as it is', async () => {
    attest = () => Promise.reject(new SpiffeError('invalid', 'evidence.x509pop.key', 'not a key'));
    create();
    await expect(owner.start(stop.signal)).rejects.toMatchObject({ reason: 'evidence.x509pop.key' });
  });

  it('renews at half life, keeping the old SVID until the new one was used', async () => {
    await begin();
    const old = owner.identity.value!.svid;
    const startedAt = clock.now();
    await clock.runUntil(() => kinds().includes('renewed'));
    expect(clock.now() - startedAt).toBe(hourMs / 2);
    expect(disk.state?.svid).toBe(owner.identity.value?.svid);
    expect(disk.state?.previous).toBe(old);
    // A call made before the renewal proves nothing about the new one.
    owner.confirmUse(old);
    await clock.settle();
    expect(disk.state?.previous).toBe(old);
    owner.confirmUse(owner.identity.value?.svid);
    await clock.settle();
    expect(disk.state?.previous).toBeUndefined();
  });

  it('shows its evidence again where it may, instead of renewing', async () => {
    attest = async () => ({ svid: svid(), bundle, reattestable: true });
    await begin(true);
    await clock.runUntil(() => attempts.length === 2);
    expect(attempts).toEqual(['attest', 'attest']);
  });

  it('keeps its SVID to the last second while renewals fail', async () => {
    await begin();
    const held = owner.identity.value!;
    renew = () => Promise.reject(away);
    attest = () => Promise.reject(away);
    await clock.advance(hourMs - 5_000);
    expect(owner.identity.value).toBe(held);
    const tries = attempts.filter((attempt) => attempt === 'renew').length;
    expect(tries).toBeGreaterThan(20);
    expect(tries).toBeLessThan(60);
    renew = async () => svid();
    await clock.runUntil(() => owner.identity.value !== held);
    expect(clock.now()).toBeLessThan(held.svid.expiresAt);
  });

  it('shows its evidence once the SVID has ended, for a renewal would present nothing', async () => {
    await begin();
    renew = () => Promise.reject(away);
    await clock.advance(hourMs + 60_000);
    expect(attempts.at(-1)).toBe('attest');
  });

  it.each(['AGENT_EXPIRED', 'AGENT_NOT_ATTESTED', 'AGENT_NOT_ACTIVE', 'AGENT_MUST_REATTEST'])('refused with %s: joins anew if it can', async (reason) => {
    attest = async () => ({ svid: svid(), bundle, reattestable: true });
    await begin(true);
    owner.refused(refusal(reason));
    await clock.runUntil(() => attempts.length === 2);
    expect(kinds()).toEqual(['attested', 'attested']);
  });

  it.each([
    ['AGENT_NOT_ATTESTED', false, 'identity.must-rejoin'],
    ['AGENT_BANNED', false, 'identity.banned'],
    ['AGENT_BANNED', true, 'identity.banned'],
  ])('refused with %s (can join anew: %s): forgets itself and ends', async (reason, repeatable, ends) => {
    attest = async () => ({ svid: svid(), bundle, reattestable: repeatable });
    await begin(repeatable);
    owner.refused(refusal(reason));
    expect(await over).toMatchObject({ kind: 'denied', reason: ends });
    expect(disk.state).toBeUndefined();
    expect(owner.tls.value.svid).toBeUndefined();
  });

  it('a refusal without a reason changes nothing', async () => {
    await begin();
    owner.refused(new SpiffeError('denied', 'call.denied', 'authorization denied'));
    await clock.advance(60_000);
    expect(attempts).toEqual(['attest']);
  });

  it('goes back to the SVID before when the server does not know the new one', async () => {
    await begin();
    const old = owner.identity.value!.svid;
    owner.renewNow();
    await clock.runUntil(() => kinds().includes('renewed'));
    owner.refused(refusal('AGENT_NOT_ACTIVE'));
    await clock.settle();
    expect(kinds().slice(0, 3)).toEqual(['attested', 'renewed', 'reverted']);
    expect(disk.state?.svid).toBe(old);
  });

  it('learns bundles, but never an empty one', async () => {
    await begin();
    await owner.learnBundle(composeBundle(emptyBundle(trustDomain)));
    expect(owner.bundle.value).toBe(bundle);
    const next = composeBundle({ ...bundle, sequence: 5n });
    await owner.learnBundle(next);
    expect(disk.bundle).toBe(next);
    expect(owner.tls.value.bundles.get(trustDomain)).toBe(next);
  });
});
