import { describe, expect, it } from 'vitest';
import { hashToken } from '../../../server/admission/join-token.ts';
import type { Verifier } from '../../../server/admission/verifier.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import type { SpiffeId } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { parseRequest } from '../../../spiffe/x509/request.ts';
import { verifyX509Svid } from '../../../spiffe/x509/verify.ts';
import { createAdmissionWorld, type AdmissionWorld } from '../../help/admission-world.ts';
import { idOf } from '../../help/store.ts';

const tokenText = 'a-token-of-16-characters';
const signal = new AbortController().signal;

async function withToken(world: AdmissionWorld, token = tokenText, agentId = idOf('/nodes')) {
  return world.admission.createToken({ ttlSeconds: 600, token, agentId }, world.scope);
}

/** A node that answers every challenge with its own bytes, reversed. */
const mirror: Verifier = {
  type: 'mirror',
  async verify(payload, challenge, { trustDomain }) {
    const answer = await challenge(payload);
    if (!Buffer.from(answer).equals(Buffer.from(payload).reverse())) {
      throw new SpiffeError('denied', 'mirror.refused', 'nodeattestor(mirror): wrong answer');
    }
    const name = Buffer.from(payload).toString();
    const selectors = ['mirror:b', 'mirror:a', 'mirror:b'].map(parseSelector);
    return { agentId: idOf(name.startsWith('/') ? name : `/spire/agent/mirror/${name}`), selectors, canReattest: true, tokenHash: undefined, trustDomain };
  },
};
const reversed = async (bytes: Uint8Array) => Buffer.from(bytes).reverse();

function show(world: AdmissionWorld, name: string, answer = reversed, address = '192.0.2.1') {
  return world.admission.admit({ type: 'mirror', payload: Buffer.from(name), csr: world.csr, address }, answer, world.scope, signal);
}

describe('admit', () => {
  it('turns a token into a record, an alias entry and an SVID', async () => {
    const world = await createAdmissionWorld();
    await withToken(world);
    const { svid, canReattest } = await world.join(tokenText);
    const id = idOf(`/spire/agent/join_token/${tokenText}`);
    const authorities = [world.rotation.list().find(({ kind }) => kind === 'x509')!.certificate!];
    const { leaf, spiffeId } = verifyX509Svid({ chain: svid.certificates, authorities, at: world.clock.now() });
    expect([spiffeId, svid.id, canReattest]).toEqual([id, id, false]);
    expect(Buffer.from(leaf.spki)).toEqual(Buffer.from(parseRequest(world.csr).publicKey));
    expect(world.agents.get(id)).toMatchObject({
      attestationType: 'join_token',
      serial: leaf.serial.decimal,
      expiresAt: svid.expiresAt,
      pendingSerial: '',
      selectors: [],
      canReattest: false,
    });
    expect(await world.store.getCredential(leaf.serial.hex)).toMatchObject({ state: 'issued', spiffeId: id, agentId: id, reason: 'attested' });
    const entries: string[] = [];
    await world.store.loadEntries((batch) => entries.push(...batch.map(({ entry }) => `${entry.spiffeId} under ${entry.parentId} if ${entry.selectors.join()}`)));
    expect(entries).toEqual([`spiffe://example.org/nodes under ${id} if spiffe_id:${id}`]);
  });

  it('T-B02: of 200 uses of one token at once exactly one succeeds', async () => {
    const world = await createAdmissionWorld();
    await withToken(world);
    const attempts = await Promise.allSettled(Array.from({ length: 200 }, (_, index) => world.join(tokenText, `192.0.2.${index}`)));
    expect(attempts.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    const reasons = new Set(attempts.flatMap((attempt) => (attempt.status === 'rejected' ? [(attempt.reason as SpiffeError).reason] : [])));
    expect([...reasons].every((reason) => reason === 'token.unknown' || reason === 'admission.failures')).toBe(true);
    expect(world.agents.size).toBe(1);
    expect((await world.store.listCredentials({}, 10, '')).items).toHaveLength(1);
  });

  it('T-B02: evidence that makes an agent once makes it once, also of 50 at a time', async () => {
    const once: Verifier = {
      type: 'mirror',
      verify: async (payload, challenge, context) => ({ ...(await mirror.verify(payload, challenge, context)), firstUseOnly: true, canReattest: false }),
    };
    const world = await createAdmissionWorld({ verifiers: [once], limits: { failureMs: 0 } });
    const attempts = await Promise.allSettled(Array.from({ length: 50 }, (_, index) => show(world, 'node-1', reversed, `192.0.2.${index}`)));
    const reasons = attempts.flatMap((attempt) => (attempt.status === 'rejected' ? [(attempt.reason as SpiffeError).reason] : []));
    expect(reasons).toEqual(Array.from({ length: 49 }, () => 'agent.already-attested'));
    expect(world.agents.size).toBe(1);
    expect((await world.store.listCredentials({}, 10, '')).items).toHaveLength(1);
  });

  it('attests others while a verifier waits for somebody outside', async () => {
    const waits: (() => void)[] = [];
    const slow: Verifier = {
      type: 'slow',
      async verify(_payload, _challenge, { outside }) {
        await outside?.(() => new Promise<void>((resolve) => waits.push(resolve)));
        return { agentId: idOf('/spire/agent/slow/1'), selectors: [], canReattest: true, tokenHash: undefined };
      },
    };
    const world = await createAdmissionWorld({ verifiers: [slow], limits: { concurrent: 1 } });
    const evidence = { type: 'slow', payload: Buffer.alloc(0), csr: world.csr, address: '192.0.2.1' };
    const leaving = new AbortController();
    const admit = (signal: AbortSignal) => world.admission.admit(evidence, () => Promise.reject(new Error()), world.scope, signal);
    const [staying, left] = [admit(new AbortController().signal), admit(leaving.signal)];
    await withToken(world);
    await expect(world.join(tokenText)).resolves.toBeDefined();
    leaving.abort(new Error('the node has left'));
    await expect(left).rejects.toThrow('the node has left');
    for (const end of waits) end();
    await expect(staying).resolves.toMatchObject({ canReattest: true });
  });

  it('T-B03: refuses tokens that could be more than one segment, in the words of an unknown one', async () => {
    const world = await createAdmissionWorld({ limits: { failureMs: 0 } });
    await withToken(world);
    const hostile = ['.', '..', '../server', 'a/b', 'a%2fb', `${tokenText}\0`, `${tokenText} `, `${tokenText}/`, tokenText.toUpperCase(), 'а-token-of-16-characters', 'a'.repeat(256), '\n', ''];
    for (const token of hostile) {
      await expect(world.join(token), JSON.stringify(token)).rejects.toMatchObject({
        kind: 'invalid',
        reason: 'token.unknown',
        message: 'failed to attest: join token does not exist or has already been used',
      });
    }
    expect(world.agents.size).toBe(0);
    await world.join(tokenText);
  });

  it('T-B04: spends an expired token and says so once', async () => {
    const world = await createAdmissionWorld({ limits: { failureMs: 0 } });
    const { expiresAt } = await withToken(world);
    expect(expiresAt).toBe(world.clock.now() + 600_000);
    await world.clock.advance(600_000);
    await expect(world.join(tokenText)).rejects.toMatchObject({ kind: 'invalid', reason: 'token.expired', message: 'join token expired' });
    await expect(world.join(tokenText)).rejects.toMatchObject({ reason: 'token.unknown' });
    expect(world.agents.size).toBe(0);
  });

  it('keeps a token whose bearer sent a bad request', async () => {
    const world = await createAdmissionWorld({ limits: { failureMs: 0 } });
    await withToken(world);
    const bad = { type: 'join_token', payload: Buffer.from(tokenText), csr: Buffer.from('csr'), address: '192.0.2.1' };
    await expect(world.admission.admit(bad, reversed, world.scope, signal)).rejects.toMatchObject({ kind: 'invalid', reason: 'admission.csr' });
    await world.join(tokenText);
  });

  it('poses challenges and keeps sorted selectors without repeats', async () => {
    const world = await createAdmissionWorld({ verifiers: [mirror] });
    const { canReattest } = await show(world, 'node-1');
    expect(canReattest).toBe(true);
    expect(world.agents.get(idOf('/spire/agent/mirror/node-1'))).toMatchObject({ selectors: ['mirror:a', 'mirror:b'], attestationType: 'mirror' });
    await expect(show(world, 'node-2', async () => Buffer.from('?'))).rejects.toMatchObject({ kind: 'denied', reason: 'mirror.refused' });
  });

  it('replaces the record of an agent that attests again, and drops what was pending', async () => {
    const world = await createAdmissionWorld({ verifiers: [mirror] });
    await show(world, 'node-1');
    const id = idOf('/spire/agent/mirror/node-1');
    const first = world.agents.get(id)!;
    await show(world, 'node-1');
    expect(world.agents.get(id)!.serial).not.toBe(first.serial);
    expect(world.agents.size).toBe(1);
  });

  it('T-B09: a banned agent cannot come back', async () => {
    const world = await createAdmissionWorld({ verifiers: [mirror] });
    await show(world, 'node-1');
    await world.store.banAgent(idOf('/spire/agent/mirror/node-1'), world.scope);
    await expect(show(world, 'node-1')).rejects.toMatchObject({ kind: 'denied', reason: 'agent.banned', message: 'failed to attest: agent is banned' });
    expect(world.refusals.at(-1)).toMatchObject({ type: 'agent.refused', reason: 'agent.banned', outcome: 'refused' });
  });

  it.each(['/spire/server', ''])('refuses evidence that yields the ID "%s"', async (path) => {
    const odd: Verifier = {
      type: 'mirror',
      verify: async () => ({ agentId: idOf(path), selectors: [], canReattest: true, tokenHash: undefined }),
    };
    const world = await createAdmissionWorld({ verifiers: [odd] });
    await expect(show(world, 'x')).rejects.toMatchObject({ kind: 'internal', reason: 'admission.agent-id' });
    expect(world.agents.size).toBe(0);
  });

  it('knows no other kinds of evidence', async () => {
    const world = await createAdmissionWorld();
    await expect(show(world, 'x')).rejects.toMatchObject({
      kind: 'conflict',
      reason: 'admission.unknown-type',
      message: 'error getting node attestor: could not find node attestor type "mirror"',
    });
  });

  it('T-B01: lets an address fail once a second, and honest nodes behind others join meanwhile', async () => {
    const world = await createAdmissionWorld();
    await withToken(world);
    await expect(world.join('guess-number-one-00')).rejects.toMatchObject({ reason: 'token.unknown' });
    await expect(world.join(tokenText)).rejects.toMatchObject({ kind: 'limited', reason: 'admission.failures' });
    await world.clock.advance(1_000);
    await expect(world.join('guess-number-two-00')).rejects.toMatchObject({ reason: 'token.unknown' });
    await world.join(tokenText, '192.0.2.2');
    expect(world.refusals.map(({ reason }) => reason)).toEqual(['token.unknown', 'admission.failures', 'token.unknown']);
    expect(JSON.stringify(world.refusals)).not.toContain('guess');
  });

  it('admits any number of honest nodes behind one address', async () => {
    const world = await createAdmissionWorld();
    const tokens = Array.from({ length: 100 }, (_, index) => `honest-node-number-${index}`);
    for (const token of tokens) await world.admission.createToken({ ttlSeconds: 600, token, agentId: undefined }, world.scope);
    await Promise.all(tokens.map((token) => world.join(token)));
    expect(world.agents.size).toBe(100);
  });

  it('a store that fails is nobody’s guess, and nothing leaves', async () => {
    let isDown = true;
    const world = await createAdmissionWorld({
      seen: (store) =>
        new Proxy(store, {
          get(inner, name) {
            if (name === 'admitAgent' && isDown) return () => Promise.reject(new SpiffeError('unavailable', 'store.busy', 'the store is busy'));
            const value: unknown = Reflect.get(inner, name);
            return typeof value === 'function' ? (value.bind(inner) as unknown) : value;
          },
        }),
    });
    await withToken(world);
    await expect(world.join(tokenText)).rejects.toMatchObject({ kind: 'unavailable', reason: 'store.busy' });
    expect((await world.store.listCredentials({}, 10, '')).items).toEqual([]);
    isDown = false;
    await world.join(tokenText);
  });
});

describe('renew', () => {
  it('gives the renewed SVID, which counts from its first use', async () => {
    const world = await createAdmissionWorld();
    await withToken(world);
    await world.join(tokenText);
    const id = idOf(`/spire/agent/join_token/${tokenText}`);
    const before = world.agents.get(id)!;
    const svid = await world.admission.renew(before, world.csr, world.scope);
    const { serial } = parseCertificate(svid.certificates[0]!);
    expect(world.agents.get(id)).toMatchObject({ serial: before.serial, pendingSerial: serial.decimal, pendingExpiresAt: svid.expiresAt });
    expect(await world.store.getCredential(serial.hex)).toMatchObject({ reason: 'renewed', state: 'issued' });
  });

  it('is refused once an agent is older than its evidence allows, and no one else', async () => {
    const brief: Verifier = {
      type: 'brief',
      renewableMs: 3_600_000,
      verify: async () => ({ agentId: idOf('/spire/agent/brief/1'), selectors: [], canReattest: false, firstUseOnly: true, tokenHash: undefined }),
    };
    const world = await createAdmissionWorld({ verifiers: [brief] });
    await withToken(world);
    await world.join(tokenText);
    const evidence = { type: 'brief', payload: Buffer.alloc(0), csr: world.csr, address: '192.0.2.1' };
    await world.admission.admit(evidence, () => Promise.reject(new Error()), world.scope, new AbortController().signal);
    const renew = (id: SpiffeId) => world.admission.renew(world.agents.get(id)!, world.csr, { ...world.scope, at: world.clock.now() });
    await world.clock.advance(3_599_000);
    await expect(renew(idOf('/spire/agent/brief/1'))).resolves.toBeDefined();
    await world.clock.advance(1_000);
    await expect(renew(idOf('/spire/agent/brief/1'))).rejects.toMatchObject({ kind: 'denied', reason: 'agent.must-reattest' });
    await expect(renew(idOf(`/spire/agent/join_token/${tokenText}`))).resolves.toBeDefined();
  });

  it('is refused to agents that can attest again, are gone or banned', async () => {
    const world = await createAdmissionWorld({ verifiers: [mirror] });
    await show(world, 'node-1');
    const agent = world.agents.get(idOf('/spire/agent/mirror/node-1'))!;
    await expect(world.admission.renew(agent, world.csr, world.scope)).rejects.toMatchObject({
      kind: 'denied',
      reason: 'agent.must-reattest',
      message: 'agent must reattest instead of renew',
    });
    await withToken(world);
    await world.join(tokenText);
    const joined = world.agents.get(idOf(`/spire/agent/join_token/${tokenText}`))!;
    await expect(world.admission.renew(joined, Buffer.from('csr'), world.scope)).rejects.toMatchObject({ kind: 'invalid', reason: 'admission.csr' });
    await world.store.banAgent(joined.id, world.scope);
    await expect(world.admission.renew(joined, world.csr, world.scope)).rejects.toMatchObject({ kind: 'denied', reason: 'agent.banned' });
    await world.store.deleteAgent(joined.id, world.scope);
    await expect(world.admission.renew(joined, world.csr, world.scope)).rejects.toMatchObject({ kind: 'missing', reason: 'agent.unknown', message: 'agent not found' });
  });
});

it('keeps of a token only its hash', async () => {
  const world = await createAdmissionWorld();
  await withToken(world);
  const { items } = await world.store.searchAudit({}, 100, '');
  expect(items.map(({ type, subject }) => [type, subject])).toContainEqual(['token.created', hashToken(tokenText)]);
  expect(JSON.stringify(items)).not.toContain(tokenText);
});
