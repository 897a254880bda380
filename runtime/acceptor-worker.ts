/**
 * The thread that owns a listening Unix socket: takes connections, learns who made them, holds the limits, and tells the
 * main thread of the ones that stay and of processes that went. What is said on a connection is none of its business.
 */
import { closeSync, readlinkSync } from 'node:fs';
import { setPriority } from 'node:os';
import { basename } from 'node:path';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { createAdmission } from './admission.ts';
import type { Admission, AdmissionLimits } from './admission.ts';
import { systemClock } from './clock.ts';
import {
  EPOLLIN,
  EPOLLONESHOT,
  acceptConnection,
  closeDescriptor,
  drainEventfd,
  openEpoll,
  openPidfd,
  peerCredentials,
  peerPidfd,
  pidfdExited,
  systemCode,
} from './linux.ts';
import type { Epoll, PeerCredentials } from './linux.ts';
import { openStat, readFacts, sameImage, statExited } from './peer.ts';
import type { PeerTier, ProcessFacts } from './peer.ts';

/** Why a connection was closed before anybody saw it. */
export type RefusalCause =
  /** This uid, or everybody together, holds as many connections as allowed; this uid connects too often. */
  | 'connections'
  | 'total'
  | 'rate'
  /** The process was gone, or had become another program, before its connection was taken. */
  | 'exited'
  /** The process cannot be seen: its PID namespace, `hidepid`, or a missing CAP_SYS_PTRACE hides it. */
  | 'pid-hidden'
  | 'image-hidden'
  /** A system call failed in a way that should not happen. */
  | 'failed';

export interface AcceptorWorkerData {
  readonly listener: number;
  readonly wake: number;
  readonly tier: PeerTier;
  readonly limits: AdmissionLimits;
  readonly unseenImage: 'refuse' | 'accept';
}

export interface AcceptedConnection extends PeerCredentials {
  readonly kind: 'connection';
  readonly id: number;
  readonly fd: number;
  /** -1 at tier 3. Closed by this thread once the connection is released. */
  readonly pidfd: number;
  readonly stat: number;
  readonly facts: ProcessFacts;
}

export type FromWorker =
  /** Once, first: the socket is being waited on. */
  | { readonly kind: 'ready' }
  | AcceptedConnection
  | { readonly kind: 'gone'; readonly id: number }
  /** Refusals since the last such message; exact. */
  | { readonly kind: 'refused'; readonly counts: readonly RefusedCount[] }
  | { readonly kind: 'paused'; readonly code: string }
  | { readonly kind: 'resumed' };

export interface RefusedCount {
  readonly uid: number;
  readonly cause: RefusalCause;
  readonly count: number;
}

export type ToWorker =
  | { readonly kind: 'release'; readonly id: number }
  | { readonly kind: 'close-listener' }
  | { readonly kind: 'stop' };

interface Live {
  readonly uid: number;
  readonly pidfd: number;
  readonly stat: number;
  gone: boolean;
}

const LISTENER = 0;
const WAKE = 1;
const FIRST_ID = 2;
const MAX_TAG = 0xffff_ffff;
/** Accepted between two looks at exits and orders, so that a flood delays neither by more than some milliseconds. */
const ACCEPTS_PER_ROUND = 128;
const REPORT_EVERY_MS = 100;
const RETRY_AFTER_MS = 200;
const LONGEST_WAIT_MS = 500;
const LOOK_EVERY_MS = 50;
const LOOKS_PER_ROUND = 2048;

/** As nice goes: above ordinary programs, below what the system keeps for itself. */
const URGENT = -10;

/**
 * All users share one queue of connections that wait to be accepted, and the kernel turns callers away when it is full: a
 * flood must not keep this thread from emptying it. Without the right to be urgent it is as others are.
 */
function hurry(): void {
  try {
    setPriority(Number(basename(readlinkSync('/proc/thread-self'))), URGENT);
  } catch {
    // Needs CAP_SYS_NICE, which not every agent has.
  }
}

/** Codes that mean "no room now, try later" from every call that makes a descriptor. */
const exhausted: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS']);

class Acceptance {
  readonly #data: AcceptorWorkerData;
  readonly #port: MessagePort;
  readonly #epoll: Epoll = openEpoll(256);
  readonly #admission: Admission;
  readonly #live = new Map<number, Live>();
  readonly #refused = new Map<string, { uid: number; cause: RefusalCause; count: number }>();
  /** A connection taken from the kernel whose process could not be looked at for want of descriptors. */
  #waiting: number | undefined;
  #nextId = FIRST_ID;
  #listening = true;
  #running = true;
  #pausedUntil: number | undefined;
  #reportAt: number | undefined;
  #lookAt = 0;
  #looks: Iterator<readonly [number, Live]> | undefined;

  constructor(data: AcceptorWorkerData, port: MessagePort) {
    this.#data = data;
    this.#port = port;
    this.#admission = createAdmission(data.limits);
    this.#epoll.add(data.listener, LISTENER, EPOLLIN);
    this.#epoll.add(data.wake, WAKE, EPOLLIN);
  }

  /** When this throws, what peers read from stays open until the process ends, as it should then. */
  run(): void {
    hurry();
    try {
      this.#post({ kind: 'ready' });
      while (this.#running) this.#round();
      this.#report();
      for (const id of this.#live.keys()) this.#release(id);
    } finally {
      this.#closeListener();
      this.#epoll.close();
    }
  }

  #round(): void {
    const ready = this.#epoll.wait(this.#timeout());
    let connections = false;
    for (const tag of ready) {
      if (tag === WAKE) this.#obey();
      else if (tag === LISTENER) connections = true;
      else this.#tellGone(tag);
    }
    if (!this.#running) return;
    const now = systemClock.monotonic();
    if (this.#data.tier === 3) this.#look(now);
    if (this.#pausedUntil !== undefined && now >= this.#pausedUntil) connections = this.#resume();
    if (connections && this.#listening && this.#pausedUntil === undefined) this.#accept(now);
    if (this.#reportAt !== undefined && now >= this.#reportAt) this.#report();
  }

  /** Until the next thing that nobody will wake us for. Bounded, since a process that ends waits for this thread to come back. */
  #timeout(): number {
    const now = systemClock.monotonic();
    let until = Math.min(this.#pausedUntil ?? Infinity, this.#reportAt ?? Infinity, now + LONGEST_WAIT_MS);
    if (this.#data.tier === 3 && this.#live.size > 0) until = Math.min(until, this.#lookAt);
    return Math.max(0, Math.ceil(until - now));
  }

  #post(message: FromWorker): void {
    this.#port.postMessage(message);
  }

  #obey(): void {
    drainEventfd(this.#data.wake);
    for (let got = receiveMessageOnPort(this.#port); got !== undefined; got = receiveMessageOnPort(this.#port)) {
      const order = got.message as ToWorker;
      if (order.kind === 'release') this.#release(order.id);
      else if (order.kind === 'close-listener') this.#closeListener();
      else this.#running = false;
    }
  }

  #closeListener(): void {
    if (!this.#listening) return;
    this.#listening = false;
    closeDescriptor(this.#waiting ?? -1);
    closeDescriptor(this.#data.listener);
    this.#waiting = undefined;
    this.#pausedUntil = undefined;
  }

  #accept(now: number): void {
    for (let count = 0; count < ACCEPTS_PER_ROUND; count += 1) {
      let fd = this.#waiting;
      this.#waiting = undefined;
      try {
        fd ??= acceptConnection(this.#data.listener);
        if (fd === undefined) return;
        this.#admit(fd, now);
      } catch (error) {
        const code = systemCode(error) ?? 'unknown';
        if (fd === undefined || exhausted.has(code)) {
          this.#waiting = fd;
          this.#pause(code, now);
          return;
        }
        this.#refuse(fd, peerCredentials(fd).uid, 'failed', now);
      }
    }
  }

  /** The listener stays readable, so it is taken out of the wait: no spinning. */
  #pause(code: string, now: number): void {
    this.#epoll.change(this.#data.listener, LISTENER, 0);
    this.#pausedUntil = now + RETRY_AFTER_MS;
    this.#post({ kind: 'paused', code });
  }

  #resume(): true {
    this.#pausedUntil = undefined;
    this.#epoll.change(this.#data.listener, LISTENER, EPOLLIN);
    this.#post({ kind: 'resumed' });
    return true;
  }

  #admit(fd: number, now: number): void {
    const { pid, uid, gid } = peerCredentials(fd);
    const over = this.#admission.refuses(uid, now);
    if (over !== undefined) return this.#refuse(fd, uid, over, now);
    if (pid <= 0) return this.#refuse(fd, uid, 'pid-hidden', now);
    const hold = this.#hold(fd, pid);
    if (typeof hold === 'string') return this.#refuse(fd, uid, hold, now);
    const id = this.#takeId();
    this.#admission.enter(uid, now);
    this.#live.set(id, { uid, pidfd: hold.pidfd, stat: hold.stat, gone: false });
    if (hold.pidfd >= 0) this.#epoll.add(hold.pidfd, id, EPOLLIN | EPOLLONESHOT);
    this.#post({ kind: 'connection', id, fd, pid, uid, gid, ...hold });
  }

  /** Takes hold of the process that connected, or says why not; keeps no descriptor then, nor when it throws. */
  #hold(fd: number, pid: number): { readonly pidfd: number; readonly stat: number; readonly facts: ProcessFacts } | RefusalCause {
    let pidfd = -1;
    let stat: number | undefined;
    let held = false;
    try {
      if (this.#data.tier === 1) pidfd = peerPidfd(fd);
      stat = openStat(pid);
      if (stat === undefined) return pidfd < 0 || pidfdExited(pidfd) ? 'exited' : 'pid-hidden';
      const before = readFacts(pid, stat);
      if (this.#data.tier === 2) pidfd = openPidfd(pid);
      const facts = this.#data.tier === 1 ? before : readFacts(pid, stat);
      if (before === undefined || facts === undefined) return 'exited';
      if (pidfd >= 0 ? pidfdExited(pidfd) : statExited(stat)) return 'exited';
      if (!sameImage(before, facts)) return 'exited';
      if (facts.exe === undefined && this.#data.unseenImage === 'refuse') return 'image-hidden';
      held = true;
      return { pidfd, stat, facts };
    } catch (error) {
      // What kernels before 6.16 answer for a process that was reaped.
      const code = systemCode(error);
      if (code === 'ESRCH' || code === 'EINVAL' || code === 'ENODATA') return 'exited';
      throw error;
    } finally {
      if (!held) {
        closeDescriptor(pidfd);
        if (stat !== undefined) closeSync(stat);
      }
    }
  }

  #takeId(): number {
    while (this.#live.has(this.#nextId)) this.#nextId = this.#nextId >= MAX_TAG ? FIRST_ID : this.#nextId + 1;
    const id = this.#nextId;
    this.#nextId = id >= MAX_TAG ? FIRST_ID : id + 1;
    return id;
  }

  #refuse(fd: number, uid: number, cause: RefusalCause, now: number): void {
    closeDescriptor(fd);
    const key = `${String(uid)} ${cause}`;
    const counted = this.#refused.get(key);
    if (counted === undefined) this.#refused.set(key, { uid, cause, count: 1 });
    else counted.count += 1;
    this.#reportAt ??= now + REPORT_EVERY_MS;
  }

  #report(): void {
    this.#reportAt = undefined;
    if (this.#refused.size === 0) return;
    this.#post({ kind: 'refused', counts: [...this.#refused.values()] });
    this.#refused.clear();
  }

  #tellGone(id: number): void {
    const live = this.#live.get(id);
    if (live === undefined || live.gone) return;
    live.gone = true;
    this.#post({ kind: 'gone', id });
  }

  /** Where there is no pidfd to wait on, some of the processes are looked at every 50 ms. */
  #look(now: number): void {
    if (now < this.#lookAt) return;
    this.#lookAt = now + LOOK_EVERY_MS;
    this.#looks ??= this.#live.entries();
    for (let count = 0; count < LOOKS_PER_ROUND; count += 1) {
      const next = this.#looks.next();
      if (next.done === true) {
        this.#looks = undefined;
        return;
      }
      const [id, live] = next.value;
      if (statExited(live.stat)) this.#tellGone(id);
    }
  }

  #release(id: number): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    this.#live.delete(id);
    this.#admission.leave(live.uid);
    // Closing the last descriptor of a pidfd also takes it out of the epoll.
    closeDescriptor(live.pidfd);
    closeSync(live.stat);
  }
}

if (parentPort !== null) new Acceptance(workerData as AcceptorWorkerData, parentPort).run();
