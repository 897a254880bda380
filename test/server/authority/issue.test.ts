import { createHash, createPublicKey } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { svidOf } from '../../../server/authority/issue.ts';
import { composeProfile, defaultProfileSettings } from '../../../server/authority/profile.ts';
import type { IssuedX509Svid, Outcome } from '../../../server/authority/sign.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { keyOfAuthority, verifyJwtSignature } from '../../../spiffe/jwt-key.ts';
import { validateJwtSvid } from '../../../spiffe/jwt-svid.ts';
import { parseWitSvid } from '../../../spiffe/wit-svid.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { encodeLeafSubject } from '../../../spiffe/x509/draft.ts';
import { verifyX509Svid } from '../../../spiffe/x509/verify.ts';
import { PlannedFault, planFaults } from '../../help/fault-plan.ts';
import { ecPair, ed25519Pair, rsaPair } from '../../help/forge.ts';
import { createIssuerWorld, type IssuerWorld } from '../../help/issuer-world.ts';
import { agentId, exampleOrg, idOf, openTestStore } from '../../help/store.ts';

const key = ecPair();
const hour = 3_600_000;

function asking(entryId: string, publicKey = key.spki) {
  return { entryId, publicKey, process: 'pid=7' };
}

async function issueOne(world: IssuerWorld, entryId: string, publicKey = key.spki): Promise<IssuedX509Svid> {
  const [outcome] = await world.issuer.issueX509([asking(entryId, publicKey)], world.caller);
  return svidOf(outcome!);
}

async function tokenOf(world: IssuerWorld, entryId: string, audience: readonly string[] = ['db']) {
  const [outcome] = await world.issuer.issueJwt([{ entryId, audience, process: '' }], world.caller);
  return svidOf(outcome!);
}

function roots({ store }: IssuerWorld): readonly Uint8Array[] {
  return store.bundle.x509Authorities.map(({ certificate }) => certificate);
}

async function witOf(world: IssuerWorld, entryId: string, asked: { readonly publicKey?: Uint8Array; readonly algorithm?: string } = {}) {
  const [outcome] = await world.issuer.issueWit([{ ...asking(entryId, asked.publicKey), algorithm: asked.algorithm ?? '' }], world.caller);
  return svidOf(outcome!);
}

describe('issueWit', () => {
  it('WIT-09 WIT-10 WIT-17: takes the name from the entry, and from the request only the key and how it signs', async () => {
    const world = await createIssuerWorld({ furtherKinds: ['wit'] });
    const entry = world.hold('web', { hint: 'inner' });
    const svid = await witOf(world, 'web');
    expect(svid).toMatchObject({ id: entry.spiffeId, hint: 'inner', issuedAt: world.clock.now(), expiresAt: world.clock.now() + hour });
    const read = parseWitSvid(svid.token);
    expect(read).toMatchObject({ spiffeId: entry.spiffeId, notBeforeAt: world.clock.now() - 10_000, expiresAt: svid.expiresAt, confirmation: { algorithm: 'ES256' } });
    expect(Buffer.from(read.confirmation.key.export({ format: 'der', type: 'spki' }))).toEqual(Buffer.from(key.spki));
    expect(Object.keys(read.claims).toSorted()).toEqual(['cnf', 'exp', 'iat', 'jti', 'nbf', 'sub']);
    const authority = world.store.bundle.witAuthorities.find(({ keyId }) => keyId === read.keyId);
    expect(verifyJwtSignature('ES256', keyOfAuthority(authority!), read.signed, read.signature)).toBe(true);
    // No key for JWT-SVIDs signs one, nor the other way round.
    expect(world.store.bundle.jwtAuthorities.map(({ keyId }) => keyId)).not.toContain(read.keyId);
  });

  it('records the intent before, and the result after, under its own kind', async () => {
    const world = await createIssuerWorld({ furtherKinds: ['wit'] });
    world.hold('web');
    const { token } = await witOf(world, 'web');
    const { jti, signed, keyId } = parseWitSvid(token);
    const digest = createHash('sha256').update(signed).digest('hex');
    expect(world.store.intents.get(jti!)).toMatchObject({ kind: 'wit', entryId: 'web', agentId: world.agent, authorityId: keyId, process: 'pid=7', audience: [], digest });
    expect(world.store.results.get(jti!)).toBe('issued');
  });

  it('lives as long as an X509-SVID of the entry, never longer than the authority', async () => {
    const world = await createIssuerWorld({ furtherKinds: ['wit'] });
    world.hold('short', { x509SvidTtlSeconds: 60 });
    world.hold('long', { x509SvidTtlSeconds: 1_000_000 });
    expect((await witOf(world, 'short')).expiresAt).toBe(world.clock.now() + 60_000);
    expect((await witOf(world, 'long')).expiresAt).toBe(Math.floor(world.rotation.active.wit!.value.expiresAt / 1000) * 1000);
  });

  it('WIT-12: names the algorithm that is asked for, if it fits the key', async () => {
    const world = await createIssuerWorld({ furtherKinds: ['wit'] });
    world.hold('web');
    const rsa = rsaPair(2048).spki;
    const named = async (publicKey: Uint8Array, algorithm: string): Promise<string> => parseWitSvid((await witOf(world, 'web', { publicKey, algorithm })).token).confirmation.algorithm;
    expect([await named(rsa, 'PS384'), await named(rsa, '')]).toEqual(['PS384', 'RS256']);
  });

  it.each<[string, { readonly publicKey?: Uint8Array; readonly algorithm?: string }, string]>([
    ['T-14 Ed25519', { publicKey: ed25519Pair().spki }, 'wit.public-key'],
    ['no key', { publicKey: Buffer.from('no key') }, 'wit.public-key'],
    ['T-16 an algorithm of another curve', { algorithm: 'ES384' }, 'wit.algorithm'],
    ['T-14 EdDSA', { algorithm: 'EdDSA' }, 'wit.algorithm'],
    ['none', { algorithm: 'none' }, 'wit.algorithm'],
  ])('refuses %s, and records that', async (_, asked, reason) => {
    const world = await createIssuerWorld({ furtherKinds: ['wit'] });
    world.hold('web');
    await expect(witOf(world, 'web', asked)).rejects.toMatchObject({ kind: 'invalid', reason });
    expect(world.refusals).toMatchObject([{ type: 'credential.refused', reason, detail: { kind: 'wit' } }]);
    expect(world.store.intents.size).toBe(0);
  });

  it('refuses an entry that the agent does not hold, and records that', async () => {
    const world = await createIssuerWorld({ furtherKinds: ['wit'] });
    await expect(witOf(world, 'nobody')).rejects.toMatchObject({ kind: 'missing' });
    expect(world.refusals).toHaveLength(1);
  });

  it('nothing leaves that could not be recorded', async () => {
    const world = await createIssuerWorld({ furtherKinds: ['wit'] });
    world.hold('web');
    const error = new SpiffeError('unavailable', 'store.busy', 'busy');
    const issuer = world.issuerWith({ store: { ...world.store, recordIntents: () => Promise.reject(error) } });
    const [outcome] = await issuer.issueWit([{ ...asking('web'), algorithm: '' }], world.caller);
    expect(outcome).toEqual({ status: 'refused', error });
  });

  it('STAB-03: refuses all where it is not configured, without a record', async () => {
    const world = await createIssuerWorld();
    world.hold('web');
    await expect(witOf(world, 'web')).rejects.toMatchObject({ kind: 'unsupported', reason: 'wit.disabled' });
    expect([world.refusals, world.store.intents.size]).toEqual([[], 0]);
  });
});

describe('issueX509', () => {
  it('T-C01: takes names and life from the entry, and from the request only the key', async () => {
    const world = await createIssuerWorld();
    const entry = world.hold('web', { dnsNames: ['web.example.org', 'www.example.org'], x509SvidTtlSeconds: 120, hint: 'inner' });
    const svid = await issueOne(world, 'web');
    const { leaf } = verifyX509Svid({ chain: svid.certificates, authorities: roots(world), at: world.clock.now() });
    expect(leaf.uris).toEqual([entry.spiffeId]);
    expect(leaf.dnsNames).toEqual(entry.dnsNames);
    expect(Buffer.from(leaf.subject)).toEqual(Buffer.from(encodeLeafSubject(entry.dnsNames)));
    expect(Buffer.from(leaf.spki)).toEqual(Buffer.from(key.spki));
    expect(leaf.notBeforeAt).toBe(world.clock.now() - 10_000);
    expect(leaf.notAfterAt).toBe(world.clock.now() + 120_000);
    expect(svid).toMatchObject({ id: entry.spiffeId, expiresAt: leaf.notAfterAt, hint: 'inner' });
    expect(svid.certificates).toHaveLength(1);
  });

  it('records the intent before, and the result after', async () => {
    const world = await createIssuerWorld();
    world.hold('web');
    const svid = await issueOne(world, 'web');
    const leaf = parseCertificate(svid.certificates[0]!);
    const intent = world.store.intents.get(leaf.serial.hex);
    expect(intent).toMatchObject({
      kind: 'x509',
      spiffeId: idOf('/web'),
      entryId: 'web',
      agentId: world.agent,
      authorityId: world.rotation.active.x509.value.id,
      reason: 'held-by-agent',
      at: world.clock.now(),
      notBeforeAt: leaf.notBeforeAt,
      expiresAt: leaf.notAfterAt,
      audience: [],
      digest: createHash('sha256').update(leaf.tbs).digest('hex'),
      process: 'pid=7',
    });
    expect(world.store.results.get(leaf.serial.hex)).toBe('issued');
  });

  it('T-B08: answers alike for an entry of another agent, one that is over, and none', async () => {
    const world = await createIssuerWorld();
    world.hold('web');
    world.hold('gone', { expiresAt: world.clock.now() });
    const stranger = { ...world.caller, agentId: agentId('b') };
    const outcomes = [
      ...(await world.issuer.issueX509([asking('web')], stranger)),
      ...(await world.issuer.issueX509([asking('gone'), asking('nothing'), asking('')], world.caller)),
    ];
    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({
        status: 'refused',
        error: { kind: 'missing', reason: 'entry.not-held', message: 'entry not found or not authorized' },
      });
    }
    expect(world.store.intents.size).toBe(0);
    expect(world.refusals.map(({ type, subject, outcome }) => [type, subject, outcome])).toEqual(
      ['web', 'gone', 'nothing', ''].map((id) => ['credential.refused', id, 'refused']),
    );
  });

  it.each([
    ['not DER', Buffer.from('key'), 'invalid'],
    ['Ed25519', ed25519Pair().spki, 'unsupported'],
    ['RSA 1024', rsaPair(1024).spki, 'unsupported'],
    ['P-224', ecPair('secp224r1').spki, 'unsupported'],
  ] as const)('T-C01: refuses a key that may not be signed: %s', async (_name, publicKey, kind) => {
    const world = await createIssuerWorld();
    world.hold('web');
    const [bad, good] = await world.issuer.issueX509([asking('web', publicKey), asking('web')], world.caller);
    expect(bad).toMatchObject({ status: 'refused', error: { kind } });
    expect(good).toMatchObject({ status: 'issued' });
    expect(world.store.intents.size).toBe(1);
    expect(world.refusals).toHaveLength(1);
  });

  it('never issues a reserved ID', async () => {
    const world = await createIssuerWorld();
    const entry = world.hold('web');
    for (const path of ['/spire/server', '/spire/agent/x']) {
      world.entries.set('web', { ...entry, spiffeId: idOf(path) });
      const [outcome] = await world.issuer.issueX509([asking('web')], world.caller);
      expect(outcome).toMatchObject({ status: 'refused', error: { reason: 'entry.not-workload' } });
    }
  });

  it('lives no longer than its authority', async () => {
    const world = await createIssuerWorld();
    world.hold('web', { x509SvidTtlSeconds: 100 * 24 * 3600 });
    const svid = await issueOne(world, 'web');
    expect(svid.expiresAt).toBe(world.rotation.active.x509.value.expiresAt);
    await world.clock.advance(24 * hour + 1000);
    const [outcome] = await world.issuer.issueX509([asking('web')], world.caller);
    expect(outcome).toMatchObject({ status: 'refused', error: { kind: 'unavailable', reason: 'authority.expired' } });
  });

  it('keeps the order of a long batch, whatever is refused in it', async () => {
    const world = await createIssuerWorld();
    const ids = Array.from({ length: 300 }, (_, index) => `entry-${index}`);
    for (const [index, id] of ids.entries()) if (index % 7 !== 0) world.hold(id);
    const outcomes = await world.issuer.issueX509(ids.map((id) => asking(id)), world.caller);
    expect(outcomes.map((outcome) => (outcome.status === 'issued' ? outcome.svid.id : ''))).toEqual(
      ids.map((id, index) => (index % 7 === 0 ? '' : idOf(`/${id}`))),
    );
  });

  it('T-C05: draws serials of 128 bits that never repeat', async () => {
    const world = await createIssuerWorld();
    world.hold('web');
    const outcomes = await world.issuer.issueX509(Array.from({ length: 1000 }, () => asking('web')), world.caller);
    const serials = outcomes.map((outcome) => parseCertificate(svidOf(outcome).certificates[0]!).serial);
    expect(new Set(serials.map(({ hex }) => hex)).size).toBe(1000);
    for (const { number, octets } of serials) {
      expect(number > 1n << 64n).toBe(true);
      expect(octets.length).toBeLessThanOrEqual(17);
    }
    // Every octet of the 16 takes part.
    const ors = Buffer.alloc(16);
    for (const { hex } of serials) Buffer.from(hex.padStart(32, '0'), 'hex').forEach((octet, at) => (ors[at] = ors[at]! | octet));
    expect(ors.every((octet) => octet === 0xff)).toBe(true);
  });

  it('T-C06: holds to the settings it began with', async () => {
    const world = await createIssuerWorld();
    for (let index = 0; index < 200; index += 1) world.hold(`entry-${index}`);
    const issuing = world.issuer.issueX509([...world.entries.keys()].map((id) => asking(id)), world.caller);
    const before = world.profile;
    world.profile = composeProfile({ ...defaultProfileSettings, x509SvidTtlSeconds: 60 });
    const lives = new Set((await issuing).map((outcome) => svidOf(outcome).expiresAt - world.clock.now()));
    expect([...lives]).toEqual([hour]);
    for (const { decisionId } of world.store.intents.values()) expect(decisionId.endsWith(`-${before.hash}`)).toBe(true);
    world.hold('web');
    expect((await issueOne(world, 'web')).expiresAt).toBe(world.clock.now() + 60_000);
    expect([...world.store.intents.values()].at(-1)!.decisionId.endsWith(`-${world.profile.hash}`)).toBe(true);
    expect(world.profile.hash).not.toBe(before.hash);
  });

  it('signs with the next authority once it is active', async () => {
    const world = await createIssuerWorld();
    world.hold('web');
    const { id } = await world.rotation.prepare('x509', world.caller.scope);
    await issueOne(world, 'web');
    await world.rotation.activate('x509', id, world.caller.scope);
    const svid = await issueOne(world, 'web');
    const leaf = parseCertificate(svid.certificates[0]!);
    expect(Buffer.from(leaf.authorityKeyId!).toString('hex')).toBe(id);
    verifyX509Svid({ chain: svid.certificates, authorities: roots(world), at: world.clock.now() });
  });
});

describe('issueJwt', () => {
  it('says what the entry and the request say', async () => {
    const world = await createIssuerWorld();
    world.hold('web', { jwtSvidTtlSeconds: 60, hint: 'inner' });
    const svid = await tokenOf(world, 'web', ['db', '', 'queue']);
    const statement = validateJwtSvid(svid.token, { bundleFor: () => world.store.bundle, audience: 'queue', at: world.clock.now() });
    expect(statement).toMatchObject({ spiffeId: idOf('/web'), audience: ['db', 'queue'], expiresAt: world.clock.now() + 60_000, issuedAt: world.clock.now() });
    expect(Object.keys(statement.claims).toSorted()).toEqual(['aud', 'exp', 'iat', 'sub']);
    expect(svid).toMatchObject({ id: idOf('/web'), issuedAt: world.clock.now(), expiresAt: world.clock.now() + 60_000, hint: 'inner' });
    const [header] = svid.token.split('.');
    expect(JSON.parse(Buffer.from(header!, 'base64url').toString())).toEqual({ alg: 'ES256', kid: world.rotation.active.jwt.value.id, typ: 'JWT' });
    expect([...world.store.intents.values()]).toMatchObject([{ kind: 'jwt', audience: ['db', 'queue'], entryId: 'web', spiffeId: idOf('/web') }]);
  });

  it('has a jti only if the entry asks, and is recorded by it', async () => {
    const world = await createIssuerWorld();
    world.profile = composeProfile({ ...defaultProfileSettings, jwtIssuer: 'https://issuer.example.org' });
    world.hold('web', { jwtSvidIncludeJti: true });
    const { token } = await tokenOf(world, 'web');
    const { claims } = validateJwtSvid(token, { bundleFor: () => world.store.bundle, audience: 'db', at: world.clock.now() });
    expect(claims['iss']).toBe('https://issuer.example.org');
    const jti = claims['jti'] as string;
    const octets = Buffer.from(jti, 'base64url');
    expect(octets).toHaveLength(16);
    expect([octets[6]! >> 4, octets[8]! >> 6]).toEqual([4, 2]);
    expect(world.store.intents.has(jti)).toBe(true);
  });

  it('lives five minutes by default, and no longer than its key', async () => {
    const world = await createIssuerWorld();
    world.hold('web');
    expect((await tokenOf(world, 'web')).expiresAt).toBe(world.clock.now() + 300_000);
    await world.clock.advance(24 * hour - 60_000);
    expect((await tokenOf(world, 'web')).expiresAt).toBe(world.rotation.active.jwt.value.expiresAt);
    await world.clock.advance(60_000);
    const [outcome] = await world.issuer.issueJwt([{ entryId: 'web', audience: ['db'], process: '' }], world.caller);
    expect(outcome).toMatchObject({ status: 'refused', error: { reason: 'authority.expired' } });
  });

  it('needs an audience', async () => {
    const world = await createIssuerWorld();
    world.hold('web');
    for (const audience of [[], ['', '']]) {
      const [outcome] = await world.issuer.issueJwt([{ entryId: 'web', audience, process: '' }], world.caller);
      expect(outcome).toMatchObject({ status: 'refused', error: { kind: 'invalid', reason: 'jwt-svid.audience.missing' } });
    }
    expect(world.store.intents.size).toBe(0);
  });

  it.each(['ec-p384', 'rsa-2048'] as const)('signs with a key of type %s', async (keyType) => {
    const world = await createIssuerWorld();
    const { policy } = world.deps();
    const rotation = await world.open({ owner: 'server-2', policy: (kind) => ({ ...policy(kind), keyType }) });
    const issuer = world.issuerWith({ active: rotation.active });
    world.hold('web');
    const [token] = await issuer.issueJwt([{ entryId: 'web', audience: ['db'], process: '' }], world.caller);
    validateJwtSvid(svidOf(token!).token, { bundleFor: () => world.store.bundle, audience: 'db', at: world.clock.now() });
    const [svid] = await issuer.issueX509([asking('web')], world.caller);
    verifyX509Svid({ chain: svidOf(svid!).certificates, authorities: roots(world), at: world.clock.now() });
  });
});

describe('the own SVIDs of agents and server', () => {
  it('are ready before the agent is recorded, and signed after', async () => {
    const world = await createIssuerWorld();
    world.profile = composeProfile({ ...defaultProfileSettings, agentSvidTtlSeconds: 600 });
    const prepared = world.issuer.prepareAgentSvid({ agentId: world.agent, publicKey: key.spki, reason: 'attested' });
    expect(world.store.intents.size).toBe(0);
    expect(prepared.intent).toMatchObject({ spiffeId: world.agent, agentId: world.agent, entryId: '', reason: 'attested' });
    const svid = await prepared.complete();
    const { leaf, spiffeId } = verifyX509Svid({ chain: svid.certificates, authorities: roots(world), at: world.clock.now() });
    expect(spiffeId).toBe(world.agent);
    expect(leaf.serial.decimal).toBe(prepared.serial);
    expect(leaf.serial.hex).toBe(prepared.intent.id);
    expect([prepared.expiresAt, svid.expiresAt]).toEqual([leaf.notAfterAt, leaf.notAfterAt]);
    expect(leaf.notAfterAt).toBe(world.clock.now() + 600_000);
  });

  it("give the server's name to nobody else", async () => {
    const world = await createIssuerWorld();
    const server = idOf('/spire/server');
    expect(() => world.issuer.prepareAgentSvid({ agentId: server, publicKey: key.spki, reason: 'attested' })).toThrow(
      expect.objectContaining({ kind: 'internal', reason: 'x509.draft.spiffe-id' }),
    );
    const svid = await world.issuer.issueServerSvid(key.spki);
    expect(svid.id).toBe(server);
    expect(world.store.intents.size).toBe(1);
  });
});

describe('T-C08: nothing leaves unrecorded', () => {
  const serialsOf = (outcomes: readonly Outcome<IssuedX509Svid>[]): readonly string[] =>
    outcomes.flatMap((outcome) => (outcome.status === 'issued' ? [parseCertificate(outcome.svid.certificates[0]!).serial.hex] : []));

  it('whichever call to store or keys fails, before or after it took effect', async () => {
    const counted = planFaults({ call: 0, when: 'before' });
    const attempt = async (faults: ReturnType<typeof planFaults>) => {
      const world = await createIssuerWorld();
      for (let index = 0; index < 70; index += 1) world.hold(`entry-${index}`);
      const issuer = world.issuerWith({
        store: faults.wrap(world.store, 'recordIntents'),
        keys: faults.wrap(world.keys, 'sign'),
        // What a store throws is an error of ours.
      });
      const outcomes = await issuer.issueX509([...world.entries.keys()].map((id) => asking(id)), world.caller).catch((error: unknown) => {
        expect(error).toBeInstanceOf(PlannedFault);
        return [];
      });
      return { world, outcomes };
    };
    await attempt(counted);
    expect(counted.calls).toBe(2 + 70);

    for (const when of ['before', 'after'] as const) {
      for (const call of [1, 2, 3, 65, 66, 67, 72]) {
        const faults = planFaults({ call, when });
        const { world, outcomes } = await attempt(faults);
        expect(faults.failed, `call ${call}`).toBeDefined();
        const out = serialsOf(outcomes);
        for (const serial of out) {
          expect(world.store.intents.has(serial)).toBe(true);
          expect(world.store.results.get(serial)).toBe('issued');
        }
        if (faults.failed === 'sign') {
          expect(out).toHaveLength(69);
          // Whether a signature was made or not, it did not leave.
          expect([...world.store.results.values()].filter((outcome) => outcome === 'failed')).toHaveLength(1);
        }
      }
    }
  });

  it('a store that refuses gets its reason to every request of the part it refused', async () => {
    const world = await createIssuerWorld();
    for (let index = 0; index < 70; index += 1) world.hold(`entry-${index}`);
    let calls = 0;
    const issuer = world.issuerWith({
      store: {
        ...world.store,
        recordIntents(intents) {
          calls += 1;
          if (calls === 2) return Promise.reject(new SpiffeError('unavailable', 'store.full', 'the disk is full'));
          return world.store.recordIntents(intents);
        },
      },
    });
    const outcomes = await issuer.issueX509([...world.entries.keys()].map((id) => asking(id)), world.caller);
    expect(outcomes.slice(0, 64).every(({ status }) => status === 'issued')).toBe(true);
    for (const outcome of outcomes.slice(64)) expect(outcome).toMatchObject({ error: { kind: 'unavailable', reason: 'store.full' } });
    expect(world.store.intents.size).toBe(64);
  });

  it('an intent without a result counts as issued in the ledger', async () => {
    const world = await createIssuerWorld();
    const store = await openTestStore({ clock: world.clock });
    world.hold('web');
    const issuer = world.issuerWith({ store: { recordIntents: (intents) => store.recordIntents(intents), recordResults: () => undefined } });
    const [outcome] = await issuer.issueX509([asking('web')], world.caller);
    const [serial] = serialsOf([outcome!]);
    expect(await store.getCredential(serial!)).toMatchObject({ state: 'intent', spiffeId: idOf('/web'), agentId: world.agent });
    const durable = world.issuerWith({ store });
    const [second] = await durable.issueX509([asking('web')], world.caller);
    expect(await store.getCredential(serialsOf([second!])[0]!)).toMatchObject({ state: 'issued' });
  });
});

it('the trust domain of an authority is that of its certificate', async () => {
  const world = await createIssuerWorld();
  const { issuer } = world.rotation.active.x509.value;
  expect(issuer.trustDomain).toBe(exampleOrg);
  const root = parseCertificate(roots(world)[0]!);
  expect(createPublicKey({ key: Buffer.from(root.spki), format: 'der', type: 'spki' }).asymmetricKeyType).toBe('ec');
});
