/**
 * The server's own X509-SVID: the first customer of issuing, under a fresh key each time, renewed at half its life. The
 * key lives in memory alone; who presents the SVID is left to the doors.
 */
import type { KeyObject } from 'node:crypto';
import { backoffMs } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createWatch, type Watch } from '../../runtime/watch.ts';
import { renewAt } from '../../spiffe/rotation.ts';
import { checkLeaf, type X509Svid } from '../../spiffe/x509-svid.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { backdateMs } from '../../spiffe/x509/draft.ts';
import type { Issuer } from './issue.ts';
import { generatePair } from './key-pair.ts';
import type { IssuedX509Svid } from './sign.ts';

export interface OwnSvidDeps {
  readonly clock: Clock;
  readonly issuer: Pick<Issuer, 'issueServerSvid'>;
  /** Told of every failure to renew, and with `undefined` when it is over. */
  readonly onProblem: (problem: unknown) => void;
}

export interface OwnSvid {
  readonly svid: Watch<X509Svid>;
  /** Renews until the signal aborts; a failed renewal keeps the old one to its last second. */
  run(signal: AbortSignal): Promise<void>;
}

/** In the middle: there is only one server to spread. */
const jitter = 0.5;
/** An authority near its end gives lives so short that half of one is nothing. */
const leastPauseMs = 1_000;
const retry = { firstMs: 1_000, factor: 1.6, longestMs: 30_000, jitter: 0 } as const;

/** @throws what store and keys throw, since nothing can be served without it */
export async function openOwnSvid({ clock, issuer, onProblem }: OwnSvidDeps): Promise<OwnSvid> {
  const renew = async (): Promise<X509Svid> => {
    const { privateKey, publicKey } = await generatePair('ec-p256');
    return composeOwn(await issuer.issueServerSvid(publicKey), privateKey);
  };
  const svid = createWatch(await renew());

  return {
    svid,
    async run(signal) {
      let failures = 0;
      while (!signal.aborted) {
        const { notBeforeAt, expiresAt } = svid.value;
        const dueAt = Math.max(renewAt(notBeforeAt + backdateMs, expiresAt, jitter), clock.now() + leastPauseMs);
        const wait = failures === 0 ? clock.sleepUntil(dueAt, signal) : clock.sleep(backoffMs(failures, 0.5, retry), signal);
        const stopped = await wait.then(
          () => false,
          () => true,
        );
        if (stopped) return;
        try {
          svid.set(await renew());
          if (failures > 0) onProblem(undefined);
          failures = 0;
        } catch (error) {
          failures += 1;
          onProblem(error);
        }
      }
    },
  };
}

function composeOwn(issued: IssuedX509Svid, privateKey: KeyObject): X509Svid {
  const [first] = issued.certificates;
  const leaf = parseCertificate(first ?? new Uint8Array());
  return Object.freeze({
    spiffeId: checkLeaf(leaf),
    chain: Object.freeze([...issued.certificates]),
    privateKey,
    serial: leaf.serial.hex,
    notBeforeAt: leaf.notBeforeAt,
    expiresAt: leaf.notAfterAt,
    hint: '',
  });
}
