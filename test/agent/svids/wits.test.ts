import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { generateKeys } from '../../../agent/svids/receive.ts';
import { createWits, type WitOutcome, type Wits } from '../../../agent/svids/wits.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseWitSvid } from '../../../spiffe/wit-svid.ts';
import { testEntry } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { testWitSigner, type TestWitSigner } from '../../help/wit-signer.ts';

const process = { pid: 7, startTime: '1', uid: 1, gid: 1, path: '/bin/web' };

let clock: TestClock;
let signer: TestWitSigner;
let wits: Wits;
let held: Map<string, RegistrationEntry>;
let tainted: Set<string>;
let outcomes: WitOutcome[];
let touched: number;
let stop: AbortController;
let over: Promise<unknown>;

beforeEach(() => {
  clock = createTestClock();
  signer = testWitSigner(clock);
  held = new Map();
  tainted = new Set();
  outcomes = [];
  touched = 0;
  wits = createWits({
    clock,
    random: () => 0.5,
    signer,
    generateKeys,
    entry: (id) => held.get(id),
    tainted: () => tainted,
    onOutcome: (outcome) => outcomes.push(outcome),
    onChange: () => (touched += 1),
  });
  stop = new AbortController();
  over = wits.run(stop.signal).catch((error: unknown) => error);
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
});

function hold(...entries: readonly RegistrationEntry[]): void {
  for (const entry of entries) held.set(entry.id, entry);
}

/** Keys are made on other threads, which the test's clock does not wait for. */
async function signed(count: number): Promise<void> {
  await expect.poll(() => outcomes.length, { timeout: 5_000 }).toBe(count);
  await clock.settle();
}

const web = testEntry('/web', ['a:1']);
const db = testEntry('/db', ['a:1']);
const mail = testEntry('/mail', ['a:1']);

describe('WIT-SVIDs', () => {
  it('are signed for whoever wants one, in batches that the server takes, and for nobody else', async () => {
    hold(web, db, mail, testEntry('/unwanted', ['a:1']));
    wits.want(process).set([web, db, mail]);
    await signed(3);
    // Keys come in any order, and so do batches.
    expect(signer.calls.flat().toSorted()).toEqual([web, db, mail].map(({ spiffeId }) => spiffeId).toSorted());
    expect(Math.max(...signer.calls.map((ids) => ids.length))).toBeLessThanOrEqual(2);
    expect(wits.size).toBe(3);
    const svid = wits.get(web);
    expect(svid).toMatchObject({ spiffeId: web.spiffeId, algorithm: 'ES256', keyId: 'wit-key', expiresAt: clock.now() + 600_000 });
    // The token is for the key that is held with it.
    const { confirmation } = parseWitSvid(svid?.token ?? '');
    expect(svid?.key.asymmetricKeyType).toBe('ec');
    expect(confirmation.key.export({ format: 'jwk' })).toMatchObject({ x: svid?.key.export({ format: 'jwk' }).x });
    expect([touched, outcomes.map(({ process: whose }) => whose?.pid)]).toEqual([3, [7, 7, 7]]);
  });

  it('WIT-36: are renewed at half of their life with another key, and the old one is given until then', async () => {
    hold(web);
    wits.want(process).set([web]);
    await signed(1);
    const first = wits.get(web);
    await clock.advance(299_000);
    expect(wits.get(web)).toBe(first);
    await clock.advance(2_000);
    await signed(2);
    const second = wits.get(web);
    expect(second?.token).not.toBe(first?.token);
    expect(second?.key.equals(first!.key)).toBe(false);
  });

  it('WIT-23: are shared by all streams of an entry, and kept as long as one is there', async () => {
    hold(web);
    const [one, two] = [wits.want(process), wits.want(process)];
    one.set([web]);
    await signed(1);
    two.set([web]);
    one.close();
    await clock.advance(301_000);
    await signed(2);
    two.close();
    await clock.advance(600_000);
    expect([signer.calls.length, wits.size, wits.get(web)]).toEqual([2, 0, undefined]);
  });

  it('are replaced when the entry changes or their authority is tainted', async () => {
    hold(web);
    const interest = wits.want(process);
    interest.set([web]);
    await signed(1);
    const changed = { ...web, revisionNumber: web.revisionNumber + 1 };
    hold(changed);
    interest.set([changed]);
    await signed(2);
    tainted.add('wit-key');
    signer.keyId = 'next';
    wits.rescan();
    await signed(3);
    expect(wits.get(changed)?.keyId).toBe('next');
    // One that the server goes on signing with is no reason to ask it without end.
    tainted.add('next');
    wits.rescan();
    await signed(4);
    await generateKeys();
    await clock.advance(60_000);
    expect(signer.calls.length).toBe(4);
    const renamed = { ...changed, spiffeId: db.spiffeId };
    expect(wits.get(renamed)).toBeUndefined();
  });

  it('are replaced when their authority is tainted while they are signed', async () => {
    hold(web);
    signer.meanwhile = () => {
      signer.meanwhile = undefined;
      tainted.add('wit-key');
      wits.rescan();
    };
    wits.want(process).set([web]);
    await signed(2);
    expect(signer.calls.length).toBe(2);
  });

  it('keep their last good one when signing fails, and try again with growing pauses', async () => {
    hold(web);
    wits.want(process).set([web]);
    await signed(1);
    signer.failing = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
    await clock.advance(wits.get(web)!.renewAt - clock.now());
    await signed(2);
    expect(wits.lastError(web.id)?.reason).toBe('rpc.unreachable');
    expect(wits.get(web)).toBeDefined();
    await clock.advance(600);
    await signed(3);
    signer.failing = undefined;
    await clock.advance(3_000);
    await signed(4);
    expect([wits.lastError(web.id), outcomes.at(-1)?.error]).toEqual([undefined, undefined]);
  });

  it('tell of a refusal and of an answer that is missing', async () => {
    hold(web);
    signer.refusing = { refused: new SpiffeError('unsupported', 'wit.disabled', 'off') };
    const before = wits.changes.value;
    wits.want(process).set([web]);
    await signed(1);
    expect([wits.lastError(web.id)?.reason, wits.changes.value > before]).toEqual(['wit.disabled', true]);
    signer.refusing = undefined;
    signer.signWit = async () => [];
    await clock.advance(1_000);
    await signed(2);
    expect(wits.lastError(web.id)?.reason).toBe('wits.answer-missing');
  });

  it('of another name or for another key are not taken', async () => {
    hold(web);
    const genuine = signer.signWit;
    const other = await generateKeys();
    signer.signWit = async ([request]) => genuine([{ ...request!, entry: db }]);
    wits.want(process).set([web]);
    await signed(1);
    expect(outcomes[0]?.error?.reason).toBe('svid.received.id');
    signer.signWit = async ([request]) => genuine([{ ...request!, keys: other }]);
    await clock.advance(1_000);
    await signed(2);
    expect(outcomes[1]?.error?.reason).toBe('svid.received.key');
  });

  it('of a former process are used, without asking', async () => {
    hold(web);
    const interest = wits.want(process);
    interest.set([web]);
    await signed(1);
    const [svid] = wits.held();
    const next = createWits({ clock, random: () => 0.5, signer, generateKeys, entry: (id) => held.get(id), tainted: () => tainted, onOutcome: () => undefined, onChange: () => undefined });
    next.restore([svid!]);
    expect(next.get(web)).toBe(svid);
  });
});
