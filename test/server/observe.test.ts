import { expect, it } from 'vitest';
import { countIssued } from '../../server/observe.ts';
import { createIssuerWorld } from '../help/issuer-world.ts';

it('counts what agents were given and refused, by kind', async () => {
  const world = await createIssuerWorld();
  const entry = world.hold('web');
  const told: unknown[] = [];
  const issuer = countIssued(world.issuer, (...count) => void told.push(count));
  const jwt = (entryId: string) => ({ entryId, audience: ['x'], process: '' });
  await issuer.issueJwt([jwt(entry.id), jwt(entry.id), jwt('unknown')], world.caller);
  await issuer.issueX509([], world.caller);
  expect(told).toEqual([
    ['jwt', 'issued', 2],
    ['jwt', 'refused', 1],
  ]);
});
