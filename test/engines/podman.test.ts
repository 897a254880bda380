import { expect, it } from 'vitest';
import { withoutEngine } from '../help/engine.ts';
import { withoutGo } from '../interop/program.ts';
import { describeEngine, refusal, updateWith } from './engine-story.ts';

describeEngine({ name: 'podman', image: 'localhost/steeple-test:one' }, withoutEngine('podman') ?? withoutGo, (place) => {
  it('that start while the engine cannot be asked get their SVIDs as soon as it can', async () => {
    const { engine, watch } = place();
    const before = watch({ flags: ['--label', 'app=web'] });
    await before.until(updateWith('/by-label'));
    await engine.stop();
    const web = watch({ flags: ['--label', 'app=web'] });
    await web.until(refusal);
    await engine.start();
    await web.until(updateWith('/by-label'));
    // Nothing was taken from the one that had its SVID.
    expect(before.lines.some(refusal)).toBe(false);
    await engine.cli('kill', before.name, web.name);
  });
});
