import { describe, expect, it } from 'vitest';
import { createMemoryKeyStore } from '../../../server/authority/keys-memory.ts';
import { openRotation, type Rotation } from '../../../server/authority/rotate.ts';
import type { AuthorityRecord } from '../../../server/store/store.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { PlannedFault, planFaults } from '../../help/fault-plan.ts';
import type { MemoryStore } from '../../help/memory-store.ts';
import { exampleOrg, openTestStore, scopeAt } from '../../help/store.ts';
import { createAuthorityWorld, hour, life, type AuthorityWorld } from '../../help/authority-world.ts';

const storeCalls = ['loadAuthorities', 'stepAuthorities', 'pruneBundle'] as const;
const keyCalls = ['generate', 'sign', 'list', 'forget'] as const;

function states(records: readonly AuthorityRecord[]): readonly string[] {
  return records.map(({ state }) => state).toSorted();
}

function bundleOf({ bundle }: MemoryStore) {
  return {
    x509: bundle.x509Authorities.map(({ certificate }) => Buffer.from(certificate).toString('hex')),
    jwt: bundle.jwtAuthorities.map(({ keyId }) => keyId),
  };
}

function eventsOf(store: MemoryStore, type: string) {
  return store.events.filter((event) => event.type === type);
}

/** What must hold whenever the store is at rest and both kinds have started. */
async function checkInvariants({ store, keys, clock }: AuthorityWorld): Promise<void> {
  const records = await store.loadAuthorities();
  const bundle = bundleOf(store);
  const names = new Set((await keys.list()).map(({ name }) => name));
  for (const kind of ['x509', 'jwt'] as const) {
    const active = records.filter((record) => record.kind === kind && record.state === 'active');
    expect(active).toHaveLength(1);
    expect(active[0]!.expiresAt).toBeGreaterThan(clock.now());
  }
  for (const record of records) {
    if (record.state === 'prepared' && record.publishedAt === undefined) continue;
    const listed = record.kind === 'jwt' ? bundle.jwt.includes(record.id) : bundle.x509.includes(Buffer.from(record.certificate!).toString('hex'));
    expect(listed, `${record.state} ${record.id} is in the bundle`).toBe(true);
    expect(names.has(record.keyName)).toBe(true);
  }
}

/** Runs the rotation in the background for as long as `work` takes. */
async function running(rotation: Rotation, work: () => Promise<void>): Promise<void> {
  const stop = new AbortController();
  const run = rotation.run(stop.signal);
  try {
    await work();
  } finally {
    stop.abort();
    await run;
  }
}

describe('openRotation', () => {
  it('starts with an active, published authority of each kind', async () => {
    const world = createAuthorityWorld();
    const rotation = await world.open();
    await checkInvariants(world);
    expect(states(rotation.list())).toEqual(['active', 'active']);
    const [x509] = rotation.stateOf('x509');
    const certificate = parseCertificate(x509!.certificate!);
    expect(certificate.uris).toEqual(['spiffe://example.org']);
    expect(x509!.id).toBe(Buffer.from(certificate.subjectKeyId!).toString('hex'));
    expect(x509!.expiresAt).toBe(certificate.notAfterAt);
    expect(rotation.active.x509.value.id).toBe(x509!.id);
    expect(rotation.stateOf('jwt')[0]!.id).toMatch(/^[A-Za-z0-9]{32}$/);
    expect(eventsOf(world.store, 'authority.activated')).toHaveLength(2);
  });

  it('goes on with what it finds', async () => {
    const world = createAuthorityWorld();
    const before = (await world.open()).list();
    const after = (await world.open()).list();
    expect(after.map(({ id }) => id).toSorted()).toEqual(before.map(({ id }) => id).toSorted());
    expect(await world.keys.list()).toHaveLength(2);
  });

  it('drops a key that nothing refers to', async () => {
    const world = createAuthorityWorld();
    const [active] = (await world.open()).list();
    await world.keys.generate(active!.keyName.replace(/.{16}$/, '0123456789abcdef'), 'ec-p256');
    await world.open();
    expect(await world.keys.list()).toHaveLength(2);
  });

  it('T-F05: refuses records without their keys, and makes no new authority', async () => {
    const world = createAuthorityWorld();
    const records = (await world.open()).list();
    const lost = createMemoryKeyStore();
    await expect(world.open({ keys: lost })).rejects.toMatchObject({ kind: 'conflict', reason: 'authority.key.missing' });
    expect(await lost.list()).toEqual([]);
    await lost.generate(records[0]!.keyName, 'ec-p256');
    await lost.generate(records[1]!.keyName, 'ec-p256');
    await expect(world.open({ keys: lost })).rejects.toMatchObject({ kind: 'conflict', reason: 'authority.key.mismatch' });
    expect(await world.store.loadAuthorities()).toHaveLength(2);
  });

  it('T-F05: refuses keys of another store while this one knows no authority', async () => {
    const world = createAuthorityWorld();
    await world.open();
    const other = createAuthorityWorld();
    await expect(other.open({ keys: world.keys })).rejects.toMatchObject({ kind: 'conflict', reason: 'authority.key.foreign' });
    expect(await world.keys.list()).toHaveLength(2);
    expect(await other.store.loadAuthorities()).toEqual([]);
  });

  it('does the same over the embedded store', async () => {
    const world = createAuthorityWorld();
    const store = await openTestStore({ clock: world.clock });
    const first = await world.open({ store });
    const prepared = await first.prepare('jwt', scopeAt(world.clock.now()));
    expect(prepared.publishedRevision).toBeLessThanOrEqual(store.position.revision);
    await first.activate('jwt', prepared.id, scopeAt(world.clock.now()));
    const second = await world.open({ store });
    expect(second.active.jwt.value.id).toBe(prepared.id);
    expect(states(second.stateOf('jwt'))).toEqual(['active', 'old']);
    const [bundle] = await store.loadBundles();
    expect(bundle).toMatchObject({ trustDomain: exampleOrg, x509Authorities: [{ tainted: false }] });
    expect(bundle!.jwtAuthorities.map(({ keyId }) => keyId)).toContain(prepared.id);
  });

  it('WIT-33: has WIT authorities only where they are configured, apart from those for JWT-SVIDs', async () => {
    const world = createAuthorityWorld();
    const without = await world.open();
    expect([without.active.wit, world.store.bundle.witAuthorities]).toEqual([undefined, []]);
    await expect(without.prepare('wit', scopeAt(world.clock.now()))).rejects.toMatchObject({ kind: 'invalid', reason: 'authority.kind' });
    const rotation = await world.open({ furtherKinds: ['wit'] });
    const wit = rotation.active.wit!.value.id;
    expect(world.store.bundle.witAuthorities.map(({ keyId }) => keyId)).toEqual([wit]);
    expect(world.store.bundle.jwtAuthorities.map(({ keyId }) => keyId)).toEqual([rotation.active.jwt.value.id]);
    const prepared = await rotation.prepare('wit', scopeAt(world.clock.now()));
    await rotation.activate('wit', prepared.id, scopeAt(world.clock.now()));
    expect(rotation.active.wit!.value.id).toBe(prepared.id);
    expect(world.store.bundle.witAuthorities.map(({ keyId }) => keyId)).toEqual([wit, prepared.id]);
  });

  it('lets WIT authorities end when they are configured no more, and takes their keys away then', async () => {
    const world = createAuthorityWorld();
    await world.open({ furtherKinds: ['wit'] });
    const rotation = await world.open();
    expect(rotation.stateOf('wit')).toHaveLength(1);
    expect(world.store.bundle.witAuthorities).toHaveLength(1);
    await running(rotation, async () => {
      await world.clock.advance(life + 61_000);
      expect(rotation.stateOf('wit')).toEqual([]);
    });
    expect(world.store.bundle.witAuthorities).toEqual([]);
    expect((await world.keys.list()).filter(({ name }) => name.startsWith('wit-'))).toEqual([]);
  });

  it('leaves the authorities of other servers alone', async () => {
    const world = createAuthorityWorld();
    const first = await world.open();
    const keys = createMemoryKeyStore();
    const second = await world.open({ owner: 'server-2', keys });
    expect(second.list()).toHaveLength(2);
    expect(second.list().map(({ id }) => id)).not.toContain(first.list()[0]!.id);
    expect(bundleOf(world.store).x509).toHaveLength(2);
  });
});

describe('run', () => {
  it('rotates through prepared, active, old and forgotten', async () => {
    const world = createAuthorityWorld();
    const rotation = await world.open();
    const [first] = rotation.stateOf('x509');
    const seen: string[] = [];
    await running(rotation, async () => {
      const startAt = world.clock.now();
      world.delivery.unconfirmed = ['spiffe://example.org/spire/agent/a'];
      await world.clock.runUntil(() => rotation.stateOf('x509').length === 2);
      expect(world.clock.now()).toBeGreaterThanOrEqual(startAt + life / 2 - 1000);
      expect(rotation.active.x509.value.id).toBe(first!.id);
      expect(states(rotation.stateOf('x509'))).toEqual(['active', 'prepared']);
      await checkInvariants(world);
      world.delivery.unconfirmed = [];
      rotation.wake();
      await world.clock.runUntil(() => rotation.active.x509.value.id !== first!.id, 1_000);
      seen.push(...states(rotation.stateOf('x509')));
      await checkInvariants(world);
      await world.clock.runUntil(() => rotation.stateOf('x509').every(({ id }) => id !== first!.id), 3 * life);
    });
    expect(seen).toEqual(['active', 'old']);
    expect(eventsOf(world.store, 'authority.unconfirmed')).toEqual([]);
    await checkInvariants(world);
    const bundle = bundleOf(world.store);
    expect(bundle.x509).not.toContain(Buffer.from(first!.certificate!).toString('hex'));
    expect((await world.keys.list()).map(({ name }) => name)).not.toContain(first!.keyName);
    expect(world.problems).toEqual([]);
  });

  it('names who had not confirmed when it could wait no longer', async () => {
    const world = createAuthorityWorld();
    const rotation = await world.open();
    const [first] = rotation.stateOf('jwt');
    world.delivery.unconfirmed = ['spiffe://example.org/spire/agent/a', 'spiffe://example.org/spire/agent/b'];
    await running(rotation, () => world.clock.runUntil(() => rotation.active.jwt.value.id !== first!.id, life));
    const [event] = eventsOf(world.store, 'authority.unconfirmed');
    expect(event?.detail).toMatchObject({ agents: world.delivery.unconfirmed, count: 2 });
    await checkInvariants(world);
  });

  it('tries again after a failure, with the same key, and says when it is over', async () => {
    const world = createAuthorityWorld();
    let isDown = false;
    let attempts = 0;
    const { upstream } = world.deps();
    const rotation = await world.open({
      upstream: {
        certify(request) {
          attempts += 1;
          return isDown ? Promise.reject(new Error('upstream is down')) : upstream.certify(request);
        },
      },
    });
    isDown = true;
    attempts = 0;
    await running(rotation, async () => {
      await world.clock.runUntil(() => attempts > 5);
      // The other kind does not wait for it.
      expect(rotation.stateOf('jwt')).toHaveLength(2);
      expect(await world.keys.list()).toHaveLength(4);
      isDown = false;
      await world.clock.runUntil(() => rotation.stateOf('x509').length === 2);
    });
    expect(world.problems.length).toBeGreaterThan(5);
    expect(world.problems.at(-1)).toBeUndefined();
    expect(await world.keys.list()).toHaveLength(4);
    await checkInvariants(world);
  });
});

describe('an operator', () => {
  it('prepares and activates', async () => {
    const world = createAuthorityWorld();
    const rotation = await world.open();
    const scope = scopeAt(world.clock.now());
    const prepared = await rotation.prepare('x509', scope);
    expect(prepared).toMatchObject({ state: 'prepared', publishedAt: scope.at });
    await expect(rotation.prepare('x509', scope)).rejects.toMatchObject({ kind: 'conflict', reason: 'authority.prepared-already' });
    // The plan leaves it alone until its time has come.
    await running(rotation, () => world.clock.advance(hour));
    expect(rotation.active.x509.value.id).not.toBe(prepared.id);
    world.delivery.unconfirmed = ['spiffe://example.org/spire/agent/a'];
    const activated = await rotation.activate('x509', prepared.id, scope);
    expect(activated.state).toBe('active');
    expect(rotation.active.x509.value.id).toBe(prepared.id);
    const [event] = eventsOf(world.store, 'authority.unconfirmed');
    expect(event).toMatchObject({ actor: scope.actor, subject: prepared.id });
    await checkInvariants(world);
  });

  it('cannot activate what is not prepared', async () => {
    const world = createAuthorityWorld();
    const rotation = await world.open();
    const scope = scopeAt(world.clock.now());
    await expect(rotation.activate('jwt', '', scope)).rejects.toMatchObject({ kind: 'invalid', reason: 'authority.id.missing', message: 'no authority ID provided' });
    await expect(rotation.activate('jwt', 'unknown', scope)).rejects.toMatchObject({ kind: 'invalid', reason: 'authority.id.unexpected', message: 'unexpected authority ID' });
    const x509 = rotation.active.x509.value.id;
    await expect(rotation.activate('jwt', x509, scope)).rejects.toMatchObject({ reason: 'authority.id.unexpected' });
    await expect(rotation.activate('x509', x509, scope)).rejects.toMatchObject({ kind: 'internal', reason: 'authority.not-prepared' });
  });
});

/** From an empty store through a start, two rotations and what they leave to forget. */
async function liveThrough(world: AuthorityWorld, open: () => Promise<Rotation>): Promise<void> {
  const rotation = await open();
  const first = rotation.active.x509.value.id;
  const firstJwt = rotation.active.jwt.value.id;
  await running(rotation, () =>
    world.clock.runUntil(
      () => [...rotation.list()].every(({ id }) => id !== first && id !== firstJwt) && rotation.list().length >= 2,
      4 * life,
    ),
  );
}

describe('a crash', () => {
  it('at any call to store or keys, before or after it took effect, leaves a state that the next start goes on from', async () => {
    const counted = planFaults({ call: 0, when: 'before' });
    const calm = createAuthorityWorld();
    const wrapped = (world: AuthorityWorld, faults: ReturnType<typeof planFaults>) => {
      const keys = faults.wrap(world.keys, ...keyCalls);
      return openRotation(world.deps({ keys, store: faults.wrap(world.store, ...storeCalls) }));
    };
    await liveThrough(calm, () => wrapped(calm, counted));
    expect(counted.calls).toBeGreaterThan(20);

    for (const when of ['before', 'after'] as const) {
      for (let call = 1; call <= counted.calls; call += 1) {
        const world = createAuthorityWorld();
        const faults = planFaults({ call, when });
        // The process dies with its first failure: whatever it knew is gone.
        const died = (async () => {
          const rotation = await wrapped(world, faults);
          const stop = new AbortController();
          const run = rotation.run(stop.signal);
          await world.clock.runUntil(() => world.problems.length > 0 || faults.calls > call, 4 * life).catch(() => undefined);
          stop.abort();
          await run;
        })();
        await died.catch((error: unknown) => expect(error).toBeInstanceOf(PlannedFault));
        expect(faults.failed, `call ${call}`).toBeDefined();

        const reopened = await world.open();
        await checkInvariants(world);
        const names = new Set(reopened.list().map(({ keyName }) => keyName));
        expect(new Set((await world.keys.list()).map(({ name }) => name))).toEqual(names);
        for (const kind of ['x509', 'jwt'] as const) expect(reopened.stateOf(kind).length).toBeLessThanOrEqual(3);
      }
    }
  }, 60_000);

  it('of nothing but one call leaves the same process going on', async () => {
    for (const when of ['before', 'after'] as const) {
      for (const name of ['stepAuthorities', 'pruneBundle'] as const) {
        const world = createAuthorityWorld();
        const first = (await world.open()).active.x509.value.id;
        const faults = planFaults({ call: 2, when });
        const rotation = await world.open({ store: faults.wrap(world.store, name) });
        await running(rotation, async () => {
          await world.clock.runUntil(() => rotation.list().every(({ id }) => id !== first), 4 * life);
          await world.clock.advance(60_000);
        });
        expect(faults.failed).toBe(name);
        expect(world.problems.at(-1)).toBeUndefined();
        await checkInvariants(world);
        expect(await world.keys.list()).toHaveLength((await world.store.loadAuthorities()).length);
      }
    }
  }, 30_000);
});
