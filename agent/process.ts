/**
 * The process a credential was asked for by, or an event is about: facts for the record. Nothing is decided by them.
 */

export interface WorkloadProcess {
  readonly pid: number;
  /** Clock ticks after boot, in decimal. */
  readonly startTime: string;
  readonly uid: number;
  readonly gid: number;
  /** `''` when it is not known. */
  readonly path: string;
}
