/**
 * Pages cut by the number of their last row, so that rows added or removed meanwhile move nothing.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Page } from './store.ts';

/** The number after which a page starts. @throws invalid `store.page-token` */
export function pageStart(token: string): number | undefined {
  if (token === '') return undefined;
  const start = /^[0-9]{1,16}$/.test(token) ? Number(token) : Number.NaN;
  if (!Number.isSafeInteger(start)) throw new SpiffeError('invalid', 'store.page-token', 'page token is not one of ours');
  return start;
}

/** @param rows one more than the page holds, when there are more */
export function cutPage<Row, Item>(
  rows: readonly Row[],
  pageSize: number,
  numberOf: (row: Row) => number,
  read: (row: Row) => Item,
): Page<Item> {
  const held = rows.slice(0, pageSize);
  const last = held.at(-1);
  return {
    items: held.map(read),
    nextToken: rows.length > pageSize && last !== undefined ? String(numberOf(last)) : '',
  };
}
