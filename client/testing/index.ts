/**
 * What the tests of programs that use the library need: a Workload API under the test's control, and an authority in memory.
 * Nothing of it belongs into production.
 */
export { createFakeAuthority, type FakeAuthority, type FakeSvidOptions, type FakeX509SvidOptions } from './authority.ts';
export { type Contrary, type Trouble, troubles } from './contrary.ts';
export { FakeWorkloadApi, type FakeWorkloadApiOptions } from './fake-workload-api.ts';
export type { FakeGrant } from './granted.ts';
