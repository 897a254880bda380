import { expect, it } from 'vitest';
import { createWanted } from '../../../agent/workload/wanted.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { testEntry } from '../../help/agent-server.ts';

const map = (...entries: readonly RegistrationEntry[]): ReadonlyMap<string, RegistrationEntry> => new Map(entries.map((entry) => [entry.id, entry]));

it('asks for a kind while any held entry does, and says so only when that changes', () => {
  const owner = createWanted();
  const [plain, hashed] = [testEntry('/a', ['unix:uid:1']), testEntry('/b', ['unix:uid:1', 'unix:sha256:00'])];
  const first = owner.wanted.value;
  expect(first.asks('unix:sha256:')).toBe(false);
  owner.update(map(plain));
  expect(owner.wanted.value.asks('unix:uid:')).toBe(true);
  expect(owner.wanted.value.asks('unix:sha256:')).toBe(false);
  owner.update(map(plain, hashed));
  const second = owner.wanted.value;
  expect(second.asks('unix:sha256:')).toBe(true);
  expect(second.asks('unix:')).toBe(true);
  expect(second.asks('docker:')).toBe(false);
  // Another entry of the same kinds makes nobody attest again.
  owner.update(map(plain, hashed, testEntry('/c', ['unix:sha256:01'])));
  expect(owner.wanted.value).toBe(second);
  owner.update(map(plain));
  expect(owner.wanted.value.asks('unix:sha256:')).toBe(false);
});
