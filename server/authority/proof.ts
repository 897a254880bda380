/**
 * Proof of possession of requests that come in batches, checked in worker threads: it costs more than signing, and the
 * main thread has better things to do. What is asked for in a request is not looked at.
 */
import { Worker } from 'node:worker_threads';
import { SpiffeError } from '../../spiffe/errors.ts';

/** A public key, or why there is none. */
export type Proved = Uint8Array | SpiffeError;

export interface ProofPool {
  /**
   * The public key (SubjectPublicKeyInfo, DER) of each request, in order, or invalid `csr.malformed|signature`.
   * @throws limited `proof.queue`, unavailable `proof.stopped`
   */
  check(requests: readonly Uint8Array[]): Promise<readonly Proved[]>;
  close(): Promise<void>;
}

/** What a worker is sent, and what it answers. */
export interface ProofJob {
  readonly id: number;
  readonly requests: readonly Uint8Array[];
}

export type ProofVerdict = { readonly publicKey: Uint8Array } | ProofFault;

export interface ProofFault {
  readonly fault: 'malformed' | 'signature';
  readonly message: string;
  readonly reason: string;
}

export interface ProofAnswer {
  readonly id: number;
  readonly verdicts: readonly ProofVerdict[];
}

/** Requests that go to a worker at once: long enough to outweigh the message, short enough to share the workers. */
const perJob = 32;
const maxWaiting = 20_000;
const defaultWorkers = 2;

interface Waiting {
  resolve(verdicts: readonly ProofVerdict[]): void;
  reject(error: SpiffeError): void;
}

interface Thread {
  readonly worker: Worker;
  readonly jobs: Map<number, Waiting>;
}

/** Close it to stop its threads. A thread that dies takes its jobs with it and is replaced. */
export function createProofPool(workers: number = defaultWorkers): ProofPool {
  let nextId = 0;
  let waiting = 0;
  let closed = false;
  const threads = new Set<Thread>();

  const start = (): Thread => {
    const thread: Thread = { worker: startWorker(), jobs: new Map() };
    const end = (): void => {
      if (!threads.delete(thread)) return;
      for (const job of thread.jobs.values()) job.reject(stopped());
      thread.jobs.clear();
    };
    thread.worker.on('message', ({ id, verdicts }: ProofAnswer) => {
      const job = thread.jobs.get(id);
      thread.jobs.delete(id);
      job?.resolve(verdicts);
      if (thread.jobs.size === 0) thread.worker.unref();
    });
    thread.worker.on('error', end);
    thread.worker.on('exit', end);
    thread.worker.unref();
    threads.add(thread);
    return thread;
  };

  const idlest = (): Thread => {
    let best: Thread | undefined;
    for (const thread of threads) if (best === undefined || thread.jobs.size < best.jobs.size) best = thread;
    return best !== undefined && (best.jobs.size === 0 || threads.size >= workers) ? best : start();
  };

  const send = (requests: readonly Uint8Array[]): Promise<readonly ProofVerdict[]> =>
    new Promise((resolve, reject) => {
      const thread = idlest();
      const id = nextId;
      nextId += 1;
      thread.jobs.set(id, { resolve, reject });
      thread.worker.ref();
      thread.worker.postMessage({ id, requests } satisfies ProofJob);
    });

  return {
    async check(requests) {
      if (closed) throw stopped();
      if (waiting + requests.length > maxWaiting) {
        throw new SpiffeError('limited', 'proof.queue', 'too many requests are waiting to be verified');
      }
      waiting += requests.length;
      try {
        const jobs: Promise<readonly ProofVerdict[]>[] = [];
        for (let from = 0; from < requests.length; from += perJob) jobs.push(send(requests.slice(from, from + perJob)));
        const verdicts = (await Promise.all(jobs)).flat();
        return verdicts.map((verdict) => ('fault' in verdict ? faultOf(verdict) : verdict.publicKey));
      } finally {
        waiting -= requests.length;
      }
    },
    async close() {
      closed = true;
      await Promise.all([...threads].map(({ worker }) => worker.terminate()));
    },
  };
}

function startWorker(): Worker {
  // From a checkout the sources run with types stripped, from a package the compiled code does.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  return new Worker(new URL(`./proof-worker.${extension}`, import.meta.url), { name: 'proof' });
}

function faultOf({ fault, message, reason }: ProofFault): SpiffeError {
  const context = { detail: { reason } };
  return fault === 'signature'
    ? new SpiffeError('invalid', 'csr.signature', `invalid CSR signature: ${message}`, context)
    : new SpiffeError('invalid', 'csr.malformed', `malformed CSR: ${message}`, context);
}

function stopped(): SpiffeError {
  return new SpiffeError('unavailable', 'proof.stopped', 'verification of requests was interrupted');
}
