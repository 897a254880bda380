import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { composeBundle, type Bundle } from '../../../spiffe/bundle.ts';
import { hourMs, testAuthority, testEntry, trustDomain } from '../../help/agent-server.ts';
import { ecPair } from '../../help/forge.ts';
import { changedIn, sdsWorld, secretsIn, secretUrl, type SdsWorld } from '../../help/sds.ts';

const other = parseTrustDomain('other.test');
const own = 'spiffe://example.org';
const web = testEntry('/web', ['a:1']);
let world: SdsWorld;

beforeEach(() => {
  world = sdsWorld();
});
afterEach(() => world.close());

const names = (secrets: readonly { readonly name: string }[]): string[] => secrets.map(({ name }) => name).toSorted();
const refusal = (code = 3, message = 'key values mismatch'): object => ({ code, message, details: [] });

describe('StreamSecrets', () => {
  it('SDS: a rotation is sent to whoever asked for the certificate, and to nobody else', async () => {
    await world.serve(web);
    const [certificate, trust] = [world.stream(), world.stream()];
    certificate.send({ resource_names: ['default'] });
    trust.send({ resource_names: ['ROOTCA'] });
    const first = await certificate.next();
    expect((await trust.next()).type_url).toBe(secretUrl);
    await world.issue(web);
    const second = await certificate.next();
    expect(secretsIn(second)[0]?.chain).not.toBe(secretsIn(first)[0]?.chain);
    expect(second.version_info).not.toBe(first.version_info);
    expect(await trust.poll()).toBeUndefined();
    expect(world.told.filter((line) => /^(?:delivered|rotated)/.test(line))).toEqual([`delivered ${own}/web`, `rotated ${own}/web`]);
  });

  it('SDS: equal content has the same version on another stream', async () => {
    await world.serve(web);
    const versions: unknown[] = [];
    for (let turn = 0; turn < 2; turn += 1) {
      const stream = world.stream();
      stream.send({ resource_names: ['default', 'ROOTCA'] });
      versions.push((await stream.next()).version_info);
    }
    expect(versions[0]).toBe(versions[1]);
  });

  it('SDS: an unknown name leaves the rest of the stream working, and is sent when it comes', async () => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: [`${own}/db`, 'default', 'ROOTCA'] });
    const first = await stream.next();
    expect(names(secretsIn(first))).toEqual(['ROOTCA', 'default']);
    stream.send({ resource_names: [`${own}/db`, 'default', 'ROOTCA'], response_nonce: first.nonce ?? '', version_info: first.version_info ?? '' });
    await world.issue(web);
    expect(names(secretsIn(await stream.next()))).toEqual(['ROOTCA', 'default']);
    await world.serve(web, testEntry('/db', ['b:1']));
    expect(names(secretsIn(await stream.next()))).toEqual(['ROOTCA', 'default', `${own}/db`]);
    expect(world.told.filter((line) => line.startsWith('unknown'))).toEqual([`unknown ${own}/db`]);
  });

  it('SDS: an authority that comes reaches those who asked for its bundle', async () => {
    const foreign = testAuthority('foreign', () => world.clock.now());
    const federated = testEntry('/web', ['a:1'], { federatesWith: [other] });
    await world.serve(federated);
    const stream = world.stream();
    stream.send({ resource_names: ['spiffe://other.test'] });
    expect(await stream.poll()).toBeUndefined();
    world.bundles.set(other, world.bundleOf(other, foreign));
    world.hold(federated);
    const before = secretsIn(await stream.next())[0]?.trust?.['other.test'];
    world.bundles.set(other, world.bundleOf(other, foreign, testAuthority('next', () => world.clock.now())));
    world.hold(federated);
    const after = secretsIn(await stream.next())[0]?.trust?.['other.test'];
    expect(after?.startsWith(before ?? '?')).toBe(true);
    expect(after?.length).toBeGreaterThan(before?.length ?? 0);
    // To come, not unknown: nobody is to be told.
    expect(world.told.filter((line) => line.startsWith('unknown'))).toEqual([]);
  });

  it('SDS: what a proxy says of itself in its first request counts for the stream', async () => {
    await world.serve(web);
    const stream = world.stream();
    const metadata = { fields: { disable_spiffe_cert_validation: { boolValue: true, kind: 'boolValue' as const } } };
    stream.send({ resource_names: ['ROOTCA'], node: { id: 'x', metadata } });
    const first = await stream.next();
    expect(Object.keys(secretsIn(first)[0]?.trust ?? {})).toEqual(['']);
    stream.send({ resource_names: [own], response_nonce: first.nonce ?? '' });
    expect(Object.keys(secretsIn(await stream.next())[0]?.trust ?? {})).toEqual(['']);
  });

  it('SDS: a refusal is told in the proxy’s words, cut short, and at length only once in a while', async () => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['default'] });
    for (let turn = 0; turn < 3; turn += 1) {
      const { nonce = '' } = await stream.next();
      stream.send({ resource_names: ['default'], response_nonce: nonce, error_detail: refusal(3, 'x'.repeat(5_000)) });
      await world.clock.settle();
      if (turn === 1) await world.clock.advance(61_000);
      await world.issue(web);
    }
    const text = 'x'.repeat(512);
    expect(world.told.filter((line) => line.startsWith('rejected'))).toEqual([`rejected: ${text}`, `rejected quietly: ${text}`, `rejected: ${text}`]);
  });

  it('SDS: ends as denied when the last identity goes', async () => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['default'] });
    await stream.next();
    world.hold();
    await expect(stream.next()).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
    expect(world.told.slice(-2)).toEqual(['refused workload.no-identity', 'closed']);
  });

  it('SDS: a caller without an identity is denied before it asks', async () => {
    world.hold();
    await expect(world.stream().next()).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
  });

  it('SDS: whoever has nothing more to say is answered once', async () => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['default'] });
    stream.end();
    expect(names(secretsIn(await stream.next()))).toEqual(['default']);
    await expect(stream.next()).rejects.toThrow('the stream ended');
    expect(world.told.at(-1)).toBe('closed');
    expect(world.deliveries.size).toBe(0);
    expect(world.cache.counts().subscriptions).toBe(0);
  });

  it.each(['peer.image', 'peer.exited', 'peer.closed'] as const)('T-A02 %s: gets no further secret', async (change) => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['default'] });
    await stream.next();
    world.peer.become(change);
    await world.issue(web);
    await expect(stream.next()).rejects.toMatchObject({ kind: 'denied', reason: change });
    expect(world.told.filter((line) => line.startsWith('rotated'))).toEqual([]);
  });

  it('SDS: what is confirmed to the server was delivered, also to those who ask for nothing', async () => {
    await world.serve(web);
    const [asking, silent] = [world.stream(), world.stream()];
    asking.send({ resource_names: ['default'] });
    await asking.next();
    await silent.poll();
    let settled = false;
    await world.issue(web);
    void world.deliveries.settled().then(() => (settled = true));
    await world.clock.settle();
    expect(settled).toBe(false);
    await asking.next();
    await asking.poll();
    await silent.poll();
    expect(settled).toBe(true);
  });
});

describe('DeltaSecrets', () => {
  it('SDS: only what changed is sent, with its name and version', async () => {
    await world.serve(web);
    const stream = world.delta();
    stream.send({ resource_names_subscribe: ['default', 'ROOTCA'] });
    const first = await stream.next();
    expect(names(changedIn(first))).toEqual(['ROOTCA', 'default']);
    expect(first.resources?.map(({ name }) => name)).toEqual(changedIn(first).map(({ name }) => name));
    await world.issue(web);
    expect(names(changedIn(await stream.next()))).toEqual(['default']);
  });

  it('SDS: what a proxy kept over a restart of the agent is not sent again', async () => {
    await world.serve(web);
    const stream = world.delta();
    stream.send({ resource_names_subscribe: ['default', 'ROOTCA'] });
    const kept = Object.fromEntries((await stream.next()).resources?.map(({ name, version }) => [name, version]) ?? []) as Record<string, string>;
    const again = world.delta();
    again.send({ resource_names_subscribe: ['default', 'ROOTCA'], initial_resource_versions: kept });
    expect(await again.poll()).toBeUndefined();
    await world.issue(web);
    expect(names(changedIn(await again.next()))).toEqual(['default']);
  });

  it('SDS: an unknown name is told to be gone, the rest works, and it is sent when it comes', async () => {
    await world.serve(web);
    const stream = world.delta();
    stream.send({ resource_names_subscribe: ['default', `${own}/db`] });
    const first = await stream.next();
    expect([names(changedIn(first)), first.removed_resources]).toEqual([['default'], [`${own}/db`]]);
    await world.serve(web, testEntry('/db', ['b:1']));
    const all: string[] = [];
    for (let response = await stream.poll(); response !== undefined; response = await stream.poll()) all.push(...names(changedIn(response)));
    expect(all).toContain(`${own}/db`);
  });
});

describe('tokens', () => {
  it('SDS: a token is a generic secret, replaced when it comes due', async () => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['jwt:db'] });
    expect(secretsIn(await stream.next())).toEqual([{ name: 'jwt:db', token: 'token-1-for-db' }]);
    const second = stream.next();
    await world.clock.advance(world.tokenLifeMs / 2 + 6_000);
    expect(secretsIn(await second)).toEqual([{ name: 'jwt:db', token: 'token-2-for-db' }]);
  });

  it('SDS: a token that cannot be signed holds nothing else up, and comes when it can', async () => {
    await world.serve(web);
    world.signing = new SpiffeError('unavailable', 'rpc.unavailable', 'away');
    const stream = world.stream();
    stream.send({ resource_names: ['jwt:db', 'default'] });
    expect(names(secretsIn(await stream.next()))).toEqual(['default']);
    await world.issue(web);
    expect(names(secretsIn(await stream.next()))).toEqual(['default']);
    world.signing = undefined;
    const both = stream.next();
    await world.clock.advance(6_000);
    expect(names(secretsIn(await both))).toEqual(['default', 'jwt:db']);
  });

  it('SDS: one that could not be replaced stays to its last second and no longer', async () => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['jwt:db', 'ROOTCA'] });
    const found = new Set<string>();
    for (let response = await stream.poll(); response !== undefined; response = await stream.poll()) for (const { name } of secretsIn(response)) found.add(name);
    expect([...found].toSorted()).toEqual(['ROOTCA', 'jwt:db']);
    world.signing = new SpiffeError('unavailable', 'rpc.unavailable', 'away');
    await world.clock.advance(world.tokenLifeMs - 6_000);
    expect(await stream.poll()).toBeUndefined();
    await world.clock.advance(12_000);
    expect(names(secretsIn(await stream.next()))).toEqual(['ROOTCA']);
  });

  it('SDS: a token with an ID is not signed anew with every update', async () => {
    const single = testEntry('/web', ['a:1'], { jwtSvidIncludeJti: true });
    await world.serve(single);
    const stream = world.stream();
    stream.send({ resource_names: ['jwt:db'] });
    await stream.next();
    for (let turn = 0; turn < 5; turn += 1) {
      await world.issue(single);
      expect(await stream.poll()).toBeUndefined();
    }
    expect(world.tokenCalls).toBe(1);
  });

  it.each([false, true])('SDS: a token whose authority is tainted is replaced at once, with an ID (%s) too', async (jwtSvidIncludeJti) => {
    const entry = testEntry('/web', ['a:1'], { jwtSvidIncludeJti });
    await world.serve(entry);
    const stream = world.stream();
    stream.send({ resource_names: ['jwt:db'] });
    await stream.next();
    world.bundles.set(trustDomain, taintedBundle());
    world.hold(entry);
    expect(secretsIn(await stream.next())).toEqual([{ name: 'jwt:db', token: 'token-2-for-db' }]);
    expect(await stream.poll()).toBeUndefined();
    expect(world.tokenCalls).toBe(2);
  });

  it.each([false, true])('SDS: one that is tainted while it is being signed is replaced, with an ID (%s) too', async (jwtSvidIncludeJti) => {
    const entry = testEntry('/web', ['a:1'], { jwtSvidIncludeJti });
    await world.serve(entry);
    const held = Promise.withResolvers<void>();
    world.signingTakes = held.promise;
    const stream = world.stream();
    stream.send({ resource_names: ['jwt:db'] });
    expect(await stream.poll()).toBeUndefined();
    world.bundles.set(trustDomain, taintedBundle());
    world.hold(entry);
    expect(await stream.poll()).toBeUndefined();
    world.signingTakes = undefined;
    held.resolve();
    expect(secretsIn(await stream.next())).toEqual([{ name: 'jwt:db', token: 'token-1-for-db' }]);
    expect(secretsIn(await stream.next())).toEqual([{ name: 'jwt:db', token: 'token-2-for-db' }]);
  });
});

function taintedBundle(): Bundle {
  const { x509Authorities } = world.bundleOf(trustDomain, world.authority);
  const jwtAuthorities = [{ keyId: 'key', publicKey: ecPair().spki, expiresAt: world.clock.now() + hourMs, tainted: true }];
  return composeBundle({ trustDomain, x509Authorities, jwtAuthorities, refreshHintSeconds: 0, sequence: 2n });
}

describe('hostile requests', () => {
  it('SDS bounds: no more tokens are being signed for a stream than it may have', async () => {
    await world.serve(web);
    const held = Promise.withResolvers<void>();
    world.signingTakes = held.promise;
    const stream = world.stream();
    for (let turn = 0; turn < 20; turn += 1) {
      stream.send({ resource_names: Array.from({ length: 16 }, (_, index) => `jwt:${turn}-${index}`) });
      expect(await stream.poll()).toBeUndefined();
    }
    expect(world.tokenCalls).toBe(16);
    held.resolve();
    // The last that were asked for come nevertheless.
    expect(names(secretsIn(await stream.next())).every((name) => name.startsWith('jwt:19-'))).toBe(true);
  });

  it('SDS bounds: a flood on one stream ends it', async () => {
    await world.serve(web);
    const stream = world.stream();
    for (let index = 0; index < 1_100; index += 1) stream.send({ resource_names: [`name-${index}`] });
    await expect(stream.next()).rejects.toMatchObject({ kind: 'limited', reason: 'sds.requests' });
    expect(world.told).toContain('refused sds.requests');
    // However many names there were, they were told of once.
    expect(world.told.filter((line) => line.startsWith('unknown')).length).toBe(1);
  });

  it('SDS bounds: a proxy that asks now and then is not kept from it', async () => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['default'] });
    let { nonce = '' } = await stream.next();
    for (let index = 0; index < 3_000; index += 1) {
      stream.send({ resource_names: index % 2 === 0 ? ['ROOTCA'] : ['default'], response_nonce: nonce });
      nonce = (await stream.next()).nonce ?? '';
      if (index % 50 === 0) await world.clock.advance(1_000);
    }
  });

  it.each([
    ['names', { resource_names: Array.from({ length: 1_001 }, (_, index) => `n${index}`) }, 'sds.names'],
    ['tokens', { resource_names: Array.from({ length: 17 }, (_, index) => `jwt:${index}`) }, 'sds.tokens'],
    ['a long name', { resource_names: ['n'.repeat(3_000)] }, 'sds.name'],
    ['another type', { type_url: 'type.googleapis.com/envoy.config.cluster.v3.Cluster' }, 'sds.type-url'],
  ])('SDS bounds: %s', async (_what, request, reason) => {
    await world.serve(web);
    const stream = world.stream();
    stream.send(request);
    await expect(stream.next()).rejects.toMatchObject({ reason });
    expect(world.told.slice(-2)).toEqual([`refused ${reason}`, 'closed']);
  });

  it('T-A11: whoever does not read gets the newest alone', async () => {
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['default'] });
    await stream.next();
    for (let turn = 0; turn < 20; turn += 1) {
      await world.issue(web);
      await world.clock.settle();
    }
    const chains = new Set<string>();
    for (let response = await stream.poll(); response !== undefined; response = await stream.poll()) chains.add(secretsIn(response)[0]?.chain ?? '');
    expect(chains.size).toBeLessThanOrEqual(2);
  });
});
