import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { verifyPeer } from '../../spiffe/x509/verify.ts';
import { createWorld, type Part, type Update, type World, type WorldAgent } from '../help/world.ts';

const minute = 60_000;
const hour = 60 * minute;

describe('hours of a trust domain, in seconds', { timeout: 90_000 }, () => {
  let world: World;
  let server: Part;
  let agent: WorldAgent;
  let updates: readonly Update[];

  beforeEach(async () => {
    world = await createWorld(`
authorities: { x509: { ttl: 2h }, jwt: { ttl: 2h } }
svids: { x509_ttl: 20m, agent_ttl: 40m }`);
    server = await world.startServer();
    agent = await world.joinAgent('agent');
    await world.createEntry('/web', agent.id);
    updates = agent.watch();
    await world.until(() => updates.length > 0);
  });
  afterEach(async () => world[Symbol.asyncDispose]());

  const svidOf = (update: Update | undefined): Update['svids'][number] => {
    const svid = update?.svids[0];
    if (svid === undefined) throw new Error('no SVID');
    return svid;
  };
  const newest = (): Update['svids'][number] => svidOf(updates.at(-1));
  const authoritiesOf = (update: Update): readonly Uint8Array[] => [...update.bundles.values()].flat();

  it('renews an SVID about half way through its life, every time', async () => {
    await world.pass(65 * minute);
    const serials = new Set(updates.map((update) => svidOf(update).serial));
    // At half life 65 minutes take seven SVIDs of 20; at the end of their life four, at every look many more. Real sockets
    // answer while the clock is moved, so single instants say little.
    expect(serials.size).toBeGreaterThanOrEqual(6);
    expect(serials.size).toBeLessThanOrEqual(9);
  });

  it('brings each new authority to workloads before anything is signed by it', async () => {
    await world.pass(4 * hour, 10_000);
    const serials = new Set(updates.map((update) => svidOf(update).serial));
    expect(serials.size).toBeGreaterThanOrEqual(4 * 5);
    const authorities = new Set<string>();
    for (const [index, update] of updates.entries()) {
      for (const certificate of authoritiesOf(update)) authorities.add(Buffer.from(certificate).toString('base64'));
      const known = authoritiesOf(updates[index - 1] ?? update);
      // Somebody who has not had this update yet, only the one before, accepts the SVID of this one.
      expect(() => verifyPeer(svidOf(update).chain, () => known, update.at, 'server')).not.toThrow();
    }
    expect(authorities.size).toBeGreaterThanOrEqual(4);
    // Those that ended are forgotten.
    expect((await world.bundle()).x509Authorities.length).toBeLessThanOrEqual(3);
  });

  it('serves what it holds while the server is away, and catches up when it is back', async () => {
    const held = newest();
    await server.stop();
    await world.pass(15 * minute);
    expect(newest().serial).toBe(held.serial);
    server = await world.startServer();
    // The agent looks again after its own pauses, which grow while it is alone, and well before what it holds ends.
    await world.passUntil(() => newest().serial !== held.serial, 4 * minute);
    expect(world.clock.now()).toBeLessThan(held.expiresAt);
    expect(newest().expiresAt).toBeGreaterThan(world.clock.now() + 15 * minute);
  });
});
