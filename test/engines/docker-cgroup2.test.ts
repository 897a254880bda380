import { expect, it } from 'vitest';
import { withoutEngine } from '../help/engine.ts';
import { withoutGo } from '../interop/program.ts';
import { describeEngine } from './engine-story.ts';

const options = { name: 'docker', image: 'steeple-test:one', engine: { cgroup2Only: true } } as const;

describeEngine(options, withoutEngine('docker') ?? withoutGo, (place) => {
  it('are in no group of cgroup v1', async () => {
    expect((await place().engine.cli('info', '--format', '{{.CgroupVersion}}')).stdout.trim()).toBe('2');
  });
});
