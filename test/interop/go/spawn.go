package main

import (
	"context"
	"flag"
	"os/exec"
	"sync"
	"time"
)

// spawn starts processes at a steady rate that each ask once, and times them from start to end.
func spawn(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("spawn", flag.ExitOnError)
	program := flags.String("program", "", "what to start, with the socket as its argument")
	socket := flags.String("socket", "", "path of the Workload API")
	rate := flags.Float64("rate", 50, "starts a second")
	duration := flags.Duration("for", 10*time.Second, "how long")
	_ = flags.Parse(args)

	var failures failureTally
	var mutex sync.Mutex
	var times []time.Duration
	var running sync.WaitGroup
	began := time.Now()
	for started := 0; ctx.Err() == nil; started++ {
		due := began.Add(time.Duration(float64(started) / *rate * float64(time.Second)))
		if due.Sub(began) >= *duration {
			break
		}
		time.Sleep(time.Until(due))
		running.Go(func() {
			from := time.Now()
			err := exec.CommandContext(ctx, *program, *socket).Run()
			took := time.Since(from)
			if failures.add(err) {
				return
			}
			mutex.Lock()
			defer mutex.Unlock()
			times = append(times, took)
		})
	}
	running.Wait()
	line := distribution(times, time.Since(began))
	line["mode"], line["rate"] = "spawn", *rate
	failures.into(line)
	print("load", line)
	return nil
}
