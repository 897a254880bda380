/**
 * Bundle endpoints of other trust domains without a network: what each serves is set by the test, and every fetch is
 * counted. What is done with the bundles is the business of the parts under test.
 */
import type { Relationship } from '../../server/store/store.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { abortReason } from '../../runtime/abort.ts';

export interface Endpoints {
  /** What is served at the URL from now on: a bundle, or what goes wrong. Nothing is served at others. */
  serve(url: string, answer: Bundle | Error): void;
  /** Holds answers back until the returned function is called, or the fetch is ended. */
  hold(): () => void;
  readonly fetches: readonly string[];
  /** Under way now, and the most there ever were. */
  readonly open: number;
  readonly mostOpen: number;
  readonly fetch: (relationship: Relationship, signal: AbortSignal) => Promise<Bundle>;
}

export function createEndpoints(): Endpoints {
  const answers = new Map<string, Bundle | Error>();
  const fetches: string[] = [];
  let held: PromiseWithResolvers<void> | undefined;
  let open = 0;
  let mostOpen = 0;
  return {
    serve: (url, answer) => void answers.set(url, answer),
    hold() {
      const gate = Promise.withResolvers<void>();
      held = gate;
      return () => {
        held = undefined;
        gate.resolve();
      };
    },
    fetches,
    get open() {
      return open;
    },
    get mostOpen() {
      return mostOpen;
    },
    async fetch({ endpointUrl }, signal) {
      fetches.push(endpointUrl);
      open += 1;
      mostOpen = Math.max(mostOpen, open);
      try {
        const ended = Promise.withResolvers<never>();
        ended.promise.catch(() => undefined);
        const onAbort = (): void => ended.reject(abortReason(signal));
        if (signal.aborted) onAbort();
        else signal.addEventListener('abort', onAbort, { once: true });
        await Promise.race([held?.promise, ended.promise]);
        signal.removeEventListener('abort', onAbort);
        const answer = answers.get(endpointUrl);
        if (answer === undefined) throw new SpiffeError('unavailable', 'bundle-fetch.unreachable', 'nothing is served there');
        if (answer instanceof Error) throw answer;
        return answer;
      } finally {
        open -= 1;
      }
    },
  };
}
