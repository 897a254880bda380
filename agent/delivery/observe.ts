/**
 * What can be seen of the agent's deliveries: log lines, metrics, and the problems that `agent status` shows. They do not
 * hold readiness back: one proxy that cannot be told is no reason to take the agent from all other workloads.
 */
import type { Logger } from '../../runtime/log.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import type { DeliveryEvent } from './deliver.ts';

export interface DeliveryObserver {
  readonly onEvent: (name: string, event: DeliveryEvent) => void;
  /** One line for each delivery that is not as it should be. */
  readonly problems: () => readonly string[];
}

const failures = { write: 'its files could not be written', notify: 'its program could not be told' } as const;

export interface DeliveryObserverParts {
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** @param names of all deliveries */
export function observeDeliveries(names: readonly string[], { log, metrics }: DeliveryObserverParts): DeliveryObserver {
  const problems = new Map(names.map((name) => [name, 'nothing was delivered yet']));
  const steps = metrics.counter({
    name: 'steeple_agent_file_deliveries_total',
    help: 'Sets of files written for deliveries, and programs told of them',
    labels: { step: ['write', 'notify'], outcome: ['done', 'failed'] },
  });
  const unmet = 'Deliveries whose files are not the newest, or whose program was not told';
  metrics.observedGauge({ name: 'steeple_agent_file_deliveries_unmet', help: unmet }, () => problems.size);

  return {
    onEvent(name, event) {
      switch (event.what) {
        case 'written': {
          const { spiffeId, serial, expiresAt } = event.set.svid;
          steps.inc({ step: 'write', outcome: 'done' });
          log.info('delivery.written', { name, spiffeId, serial, expiresAt: new Date(expiresAt).toISOString() });
          break;
        }
        case 'notified':
          steps.inc({ step: 'notify', outcome: 'done' });
          log.info('delivery.notified', { name, change: event.change });
          break;
        case 'delivered':
          if (event.set.missing.length === 0) problems.delete(name);
          else problems.set(name, `no JWT-SVID for ${event.set.missing.join(', ')}`);
          log.debug('delivery.delivered', { name, serial: event.set.svid.serial });
          break;
        case 'removed':
          log.warn('delivery.removed', { name });
          break;
        case 'failed':
          problems.set(name, `${failures[event.step]} (${event.error.reason})`);
          steps.inc({ step: event.step, outcome: 'failed' });
          log.error('delivery.failed', { name, task: event.step, reason: event.error.reason, error: event.error });
          break;
        case 'waiting':
          problems.set(name, 'no entry grants it an identity');
          log.warn('delivery.waiting', { name, remedy: `create an entry with the selector delivery:${name}` });
          break;
        case 'lost':
          problems.set(name, 'its identity was taken away');
          log.error('delivery.lost', { name, remedy: 'restore its entry; files that are kept end with their certificate' });
          break;
        case 'unsigned':
          problems.set(name, 'there is no X509-SVID for it');
          log.warn('delivery.unsigned', { name });
          break;
        case 'no-token':
          log.warn('delivery.no-token', { name, file: event.file, reason: event.error.reason, error: event.error });
          break;
      }
    },
    problems: () => [...problems].map(([name, why]) => `delivery ${name}: ${why}`),
  };
}
