/**
 * The thread that hashes executables: a few mebibytes of one, then of the next user's, so that nobody's giant file keeps
 * another's waiting. Opening files, caching and deciding what is hashed are left to `unix-hash.ts`.
 */
import { createHash } from 'node:crypto';
import type { Hash } from 'node:crypto';
import { readSync } from 'node:fs';
import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';

export type ToHasher =
  /** The descriptor stays the sender's, open until the answer; after `cancel` there is an answer too. */
  | { readonly kind: 'hash'; readonly id: number; readonly fd: number; readonly size: number; readonly uid: number }
  | { readonly kind: 'cancel'; readonly id: number };

export interface FromHasher {
  readonly id: number;
  /** Lower-case hex; absent when the file could not be read as it was announced, or on `cancel`. */
  readonly sha256?: string;
}

interface Job {
  readonly id: number;
  readonly fd: number;
  readonly size: number;
  readonly hash: Hash;
  done: number;
}

const SLICE_BYTES = 4 * 1024 * 1024;

function serve(port: MessagePort): void {
  const jobs = new Map<number, Job[]>();
  const slice = Buffer.alloc(SLICE_BYTES);

  const answer = (message: FromHasher): void => port.postMessage(message);

  const drop = (id: number): void => {
    for (const [uid, queue] of jobs) {
      const at = queue.findIndex((job) => job.id === id);
      if (at < 0) continue;
      queue.splice(at, 1);
      if (queue.length === 0) jobs.delete(uid);
      answer({ id });
    }
  };

  /** @returns whether the job is over */
  const step = (job: Job): boolean => {
    let read: number;
    try {
      read = readSync(job.fd, slice, 0, SLICE_BYTES, job.done);
    } catch {
      answer({ id: job.id });
      return true;
    }
    job.hash.update(slice.subarray(0, read));
    job.done += read;
    if (read > 0 && job.done <= job.size) return false;
    if (job.done === job.size) answer({ id: job.id, sha256: job.hash.digest('hex') });
    else answer({ id: job.id });
    return true;
  };

  const obey = (message: ToHasher): void => {
    if (message.kind === 'cancel') {
      drop(message.id);
      return;
    }
    const { id, fd, size, uid } = message;
    const queue = jobs.get(uid);
    const job: Job = { id, fd, size, hash: createHash('sha256'), done: 0 };
    if (queue === undefined) jobs.set(uid, [job]);
    else queue.push(job);
  };

  /** One slice of the shortest file of each user in turn, with an ear for orders in between. */
  const round = (): void => {
    for (const [uid, queue] of jobs) {
      const shortest = queue.reduce((a, b) => (b.size - b.done < a.size - a.done ? b : a));
      if (step(shortest)) queue.splice(queue.indexOf(shortest), 1);
      if (queue.length === 0) jobs.delete(uid);
      for (let got = receiveMessageOnPort(port); got !== undefined; got = receiveMessageOnPort(port)) {
        obey(got.message as ToHasher);
      }
    }
  };

  port.on('message', (message: ToHasher) => {
    obey(message);
    while (jobs.size > 0) round();
  });
}

if (parentPort !== null) serve(parentPort);
