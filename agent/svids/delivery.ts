/**
 * Who of the connected workloads has not been sent the newest yet, so that a position is confirmed to the server only
 * after it was delivered. What is sent is not known here.
 */

/** Of one open stream; closed by the stream. */
export interface DeliveryLane {
  /** To be called after each message that went out. */
  sent(): void;
  close(): void;
}

export interface Deliveries {
  /** @param isBehind whether there is something newer than what the stream was sent */
  open(isBehind: () => boolean): DeliveryLane;
  /** Resolves when every stream that is behind now has caught up or is gone. */
  settled(): Promise<void>;
  readonly size: number;
}

interface Lane {
  readonly isBehind: () => boolean;
}

export function createDeliveries(): Deliveries {
  const lanes = new Set<Lane>();
  const waits = new Set<{ readonly behind: Set<Lane>; readonly resolve: () => void }>();

  const arrived = (lane: Lane): void => {
    for (const wait of waits) {
      if (!wait.behind.delete(lane) || wait.behind.size > 0) continue;
      waits.delete(wait);
      wait.resolve();
    }
  };

  return {
    open(isBehind) {
      const lane = { isBehind };
      lanes.add(lane);
      return {
        sent() {
          if (!isBehind()) arrived(lane);
        },
        close() {
          lanes.delete(lane);
          arrived(lane);
        },
      };
    },
    settled() {
      const behind = new Set([...lanes].filter((lane) => lane.isBehind()));
      if (behind.size === 0) return Promise.resolve();
      const { promise, resolve } = Promise.withResolvers<void>();
      waits.add({ behind, resolve });
      return promise;
    },
    get size() {
      return lanes.size;
    },
  };
}
