import { describe, expect, it, onTestFinished } from 'vitest';
import { createProofPool, type ProofPool } from '../../../server/authority/proof.ts';
import { composeRequest } from '../../../spiffe/x509/request.ts';
import { ecPair, rsaPair } from '../../help/forge.ts';

function openPool(workers = 2): ProofPool {
  const pool = createProofPool(workers);
  onTestFinished(() => pool.close());
  return pool;
}

const own = ecPair();
const request = composeRequest({ privateKey: own.privateKey });

describe('createProofPool', () => {
  it('yields the public keys in the order of the requests, over many jobs and callers', async () => {
    const pool = openPool();
    const pairs = Array.from({ length: 40 }, () => ecPair());
    const requests = pairs.map(({ privateKey }) => composeRequest({ privateKey }));
    const batches = [0, 1, 2].map((shift) => [...requests.slice(shift * 10), ...requests.slice(0, shift * 10)]);
    const proved = await Promise.all(batches.map((batch) => pool.check(batch)));
    for (const [shift, keys] of proved.entries()) {
      expect(keys.map((key) => Buffer.from(key as Uint8Array))).toEqual(
        [...pairs.slice(shift * 10), ...pairs.slice(0, shift * 10)].map(({ spki }) => Buffer.from(spki)),
      );
    }
  });

  it('T-C01: refuses each bad request in its place, with the words of the contract', async () => {
    const pool = openPool();
    const tampered = Buffer.from(request);
    tampered[tampered.length - 1]! ^= 1;
    const foreign = composeRequest({ privateKey: ecPair().privateKey, publicKey: own.spki });
    const answers = await pool.check([request, Buffer.from('csr'), tampered, new Uint8Array(), foreign, composeRequest({ privateKey: rsaPair().privateKey }), Buffer.concat([request, Buffer.alloc(1)])]);
    expect(answers[0]).toBeInstanceOf(Uint8Array);
    expect(answers[5]).toBeInstanceOf(Uint8Array);
    for (const at of [1, 3, 6]) expect(answers[at]).toMatchObject({ kind: 'invalid', reason: 'csr.malformed', message: expect.stringMatching(/^malformed CSR: /) as string });
    for (const at of [2, 4]) expect(answers[at]).toMatchObject({ kind: 'invalid', reason: 'csr.signature', message: expect.stringMatching(/^invalid CSR signature: /) as string });
  });

  it('answers nothing with nothing', async () => {
    expect(await openPool().check([])).toEqual([]);
  });

  it('refuses more than it can hold', async () => {
    const pool = openPool(1);
    await expect(pool.check(Array.from({ length: 20_001 }, () => request))).rejects.toMatchObject({ kind: 'limited', reason: 'proof.queue' });
    expect(await pool.check([request])).toHaveLength(1);
  });

  it('gives up what is under way when it is closed', async () => {
    const pool = openPool(1);
    const checking = pool.check(Array.from({ length: 500 }, () => request));
    await pool.close();
    await expect(checking).rejects.toMatchObject({ kind: 'unavailable', reason: 'proof.stopped' });
    await expect(pool.check([request])).rejects.toMatchObject({ kind: 'unavailable', reason: 'proof.stopped' });
  });
});
