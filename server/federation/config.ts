/**
 * What an operator may say about fetching the bundles of other trust domains. The relationships themselves are in the
 * store; serving our own bundle is told apart from this.
 */
import { z } from 'zod';
import { absolutePath, duration, section } from '../../runtime/config.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSubnet } from './addresses.ts';

const subnet = z.string().superRefine((text, context) => {
  try {
    parseSubnet(text);
  } catch (error) {
    context.addIssue({ code: 'custom', message: error instanceof SpiffeError ? error.message : 'is no subnet' });
  }
});

export const fetchSection = section({
  /** Bounds of how often one bundle is fetched, whatever its publisher asks for. */
  shortest: duration({ min: '1s', max: '1d' }).prefault('1m'),
  longest: duration({ min: '1m', max: '30d' }).prefault('1d'),
  /** Bundles fetched at the same time. */
  at_once: z.int().min(1).max(256).default(16),
  /** Whether endpoints may be in networks of the organisation, such as 10.0.0.0/8. */
  private_addresses: z.boolean().default(true),
  /** Subnets that endpoints may be in although they are the machine itself, its link or nobody's. */
  allow_addresses: z.array(subnet).max(256).default([]),
  /** PEM of the authorities of `https_web`; the machine's own when absent. */
  web_ca: absolutePath().optional(),
});

export type FetchConfig = z.output<typeof fetchSection>;
