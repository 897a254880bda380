import { createPublicKey } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { openOwnSvid } from '../../../server/authority/own-svid.ts';
import { composeProfile, defaultProfileSettings } from '../../../server/authority/profile.ts';
import type { IssuedX509Svid } from '../../../server/authority/sign.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { verifyX509Svid } from '../../../spiffe/x509/verify.ts';
import { createIssuerWorld } from '../../help/issuer-world.ts';
import { idOf } from '../../help/store.ts';

const hour = 3_600_000;

/** Lets the thread pool, on which keys are made, do its work between the jumps of the clock. */
async function until(done: () => boolean, move: () => Promise<unknown>): Promise<void> {
  for (let turn = 0; turn < 10_000 && !done(); turn += 1) await move();
  expect(done()).toBe(true);
}

describe('openOwnSvid', () => {
  it('ID-18: gives the server an SVID of its own, whose key it has', async () => {
    const world = await createIssuerWorld();
    const { svid } = await openOwnSvid({ clock: world.clock, issuer: world.issuer, onProblem: () => undefined });
    const authorities = world.store.bundle.x509Authorities.map(({ certificate }) => certificate);
    const { leaf, spiffeId } = verifyX509Svid({ chain: svid.value.chain, authorities, at: world.clock.now() });
    expect([spiffeId, svid.value.spiffeId]).toEqual([idOf('/spire/server'), idOf('/spire/server')]);
    expect(createPublicKey(svid.value.privateKey).export({ type: 'spki', format: 'der' })).toEqual(Buffer.from(leaf.spki));
    expect(world.store.intents.get(svid.value.serial)).toMatchObject({ reason: 'own' });
  });

  it('renews at half of its life under a new key, and keeps the old one while it cannot', async () => {
    const world = await createIssuerWorld();
    const problems: unknown[] = [];
    let isDown = false;
    let attempts = 0;
    const issuer = {
      issueServerSvid(publicKey: Uint8Array): Promise<IssuedX509Svid> {
        attempts += 1;
        return isDown ? Promise.reject(new SpiffeError('unavailable', 'store.busy', 'busy')) : world.issuer.issueServerSvid(publicKey);
      },
    };
    const own = await openOwnSvid({ clock: world.clock, issuer, onProblem: (problem) => void problems.push(problem) });
    const first = own.svid.value;
    const startAt = world.clock.now();
    const stop = new AbortController();
    const run = own.run(stop.signal);
    await world.clock.advance(hour / 2 - 1000);
    expect(attempts).toBe(1);
    isDown = true;
    await until(() => problems.length >= 5, () => world.clock.advance(500));
    expect(own.svid.value).toBe(first);
    isDown = false;
    await until(() => own.svid.value !== first, () => world.clock.advance(500));
    expect(world.clock.now() - startAt).toBeLessThan(hour);
    expect(problems.at(-1)).toBeUndefined();
    const der = (svid: typeof first) => createPublicKey(svid.privateKey).export({ type: 'spki', format: 'der' });
    expect(der(own.svid.value)).not.toEqual(der(first));
    stop.abort();
    await run;
  });

  it('does not spin when its authority is about to end', async () => {
    const world = await createIssuerWorld();
    world.profile = composeProfile({ ...defaultProfileSettings, x509SvidTtlSeconds: 1 });
    let issued = 0;
    const issuer = {
      issueServerSvid(publicKey: Uint8Array): Promise<IssuedX509Svid> {
        issued += 1;
        return world.issuer.issueServerSvid(publicKey);
      },
    };
    const own = await openOwnSvid({ clock: world.clock, issuer, onProblem: () => undefined });
    const stop = new AbortController();
    const run = own.run(stop.signal);
    for (let second = 0; second < 20; second += 1) await world.clock.advance(1000);
    expect(issued).toBeLessThanOrEqual(21);
    stop.abort();
    await run;
  });
});
