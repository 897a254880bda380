/**
 * All deliveries of the configuration: their tasks, and what is wrong with them. One delivery is `deliver.ts`.
 */
import type { Logger } from '../../runtime/log.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import type { Task } from '../../runtime/tasks.ts';
import type { DeliveryConfig } from './config.ts';
import { deliveryTask, type DeliveryParts } from './deliver.ts';
import { observeDeliveries, type DeliveryObserver } from './observe.ts';

export interface FileDeliveries extends Pick<DeliveryObserver, 'problems'> {
  readonly tasks: Readonly<Record<string, Task>>;
}

export interface FileDeliveriesParts extends Omit<DeliveryParts, 'onEvent'> {
  readonly log: Logger;
  readonly metrics: Metrics;
}

export function createFileDeliveries(configs: readonly DeliveryConfig[], parts: FileDeliveriesParts): FileDeliveries {
  const { onEvent, problems } = observeDeliveries(configs.map(({ name }) => name), parts);
  const tasks = configs.map((config) => [`delivery ${config.name}`, deliveryTask(config, { ...parts, onEvent })] as const);
  return { tasks: Object.fromEntries(tasks), problems };
}
