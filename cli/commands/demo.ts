/**
 * `steeple demo`: a whole trust domain on this machine, shown as it runs. What happens in it is in `demo/`.
 */
import { command, type Command } from '../command.ts';
import { takePlace } from '../demo/place.ts';
import { runDemo } from '../demo/story.ts';

export const demoCommands: readonly Command[] = [
  command({
    name: 'demo',
    summary: 'run a whole trust domain on this machine, until Ctrl-C; running it again goes on from there',
    flags: { dir: { type: 'text', value: 'DIR', summary: 'where it keeps its state; ./.steeple unless given' } },
    async run({ flags }, io) {
      const place = await takePlace(flags.dir ?? '.steeple');
      try {
        return await runDemo(place, io);
      } finally {
        await place.release();
      }
    },
  }),
];
