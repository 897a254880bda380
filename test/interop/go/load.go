package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// load measures the Workload API with bare grpc-go.
func load(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("load")
	mode := flags.String("mode", "first-message", "first-message, jwt, streams or churn")
	number := flags.Int("n", 1000, "calls in all, or streams held")
	workers := flags.Int("c", 1, "at the same time")
	kept := flags.Bool("keep", false, "first-message: reuse one connection per worker")
	audience := flags.String("audience", "interop", "jwt: the audience")
	duration := flags.Duration("for", 10*time.Second, "streams: how long to hold; churn: how long to flood")
	calling := flags.Bool("rpc", false, "churn: make a call on each connection before it is closed")
	_ = flags.Parse(args)
	ctx = metadata.NewOutgoingContext(ctx, metadata.Pairs("workload.spiffe.io", "true"))

	switch *mode {
	case "first-message":
		return measure(ctx, *mode, *number, *workers, func(conn *grpc.ClientConn) error {
			return firstMessage(ctx, conn)
		}, *flags.socket, *kept)
	case "jwt":
		request := &workload.JWTSVIDRequest{Audience: strings.Split(*audience, ",")}
		return measure(ctx, *mode, *number, *workers, func(conn *grpc.ClientConn) error {
			_, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchJWTSVID(ctx, request)
			return err
		}, *flags.socket, true)
	case "streams":
		return holdStreams(ctx, *flags.socket, *number, *workers, *duration)
	case "churn":
		return churn(ctx, *flags.socket, *workers, *duration, *calling)
	}
	return fmt.Errorf("unknown mode %q", *mode)
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func firstMessage(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// keptCalls are made on one connection before the next is opened: agents take many cancelled streams for an attack.
const keptCalls = 80

// measure times call by call, connecting included unless the connection is kept; a first call on it is then not measured.
func measure(
	ctx context.Context, mode string, number, workers int, call func(*grpc.ClientConn) error, socket string, kept bool,
) error {
	var next atomic.Int64
	var failures failureTally
	times := make([][]time.Duration, workers)
	began := time.Now()
	var running sync.WaitGroup
	for worker := range workers {
		running.Go(func() {
			var conn *grpc.ClientConn
			for calls := 0; next.Add(1) <= int64(number) && ctx.Err() == nil; calls++ {
				if conn != nil && (!kept || calls%keptCalls == 0) {
					_ = conn.Close()
					conn = nil
				}
				started := time.Now()
				var err error
				if conn == nil {
					conn, err = dial(socket)
					if err == nil && kept {
						err = call(conn)
						started = time.Now()
					}
				}
				if err == nil {
					err = call(conn)
				}
				took := time.Since(started)
				if failures.add(err) {
					continue
				}
				times[worker] = append(times[worker], took)
			}
			if conn != nil {
				_ = conn.Close()
			}
		})
	}
	running.Wait()
	line := distribution(slices.Concat(times...), time.Since(began))
	line["mode"], line["workers"], line["kept"] = mode, workers, kept
	failures.into(line)
	print("load", line)
	return nil
}

// distribution is in milliseconds, but for the rate per second.
func distribution(times []time.Duration, elapsed time.Duration) object {
	slices.Sort(times)
	at := func(q float64) float64 {
		if len(times) == 0 {
			return 0
		}
		return float64(times[int(q*float64(len(times)-1))].Microseconds()) / 1000
	}
	return object{
		"count": len(times), "seconds": elapsed.Seconds(), "perSecond": float64(len(times)) / elapsed.Seconds(),
		"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1),
	}
}

// failureTally counts failures by status code, or by what the system said.
type failureTally struct {
	sync.Mutex
	kinds map[string]int
	first string
}

func (t *failureTally) add(err error) bool {
	if err == nil {
		return false
	}
	kind := codeOf(err)
	if errno := syscall.Errno(0); kind == "" && errors.As(err, &errno) {
		kind = errno.Error()
	}
	if kind == "" {
		kind = "other"
	}
	t.Lock()
	defer t.Unlock()
	if t.kinds == nil {
		t.kinds, t.first = map[string]int{}, err.Error()
	}
	t.kinds[kind]++
	return true
}

func (t *failureTally) into(line object) {
	t.Lock()
	defer t.Unlock()
	total := 0
	for _, count := range t.kinds {
		total += count
	}
	line["failures"] = total
	if total > 0 {
		line["failureKinds"], line["firstFailure"] = t.kinds, t.first
	}
}

// holdStreams opens one connection and stream each, prints when all have their first message, and holds them.
func holdStreams(ctx context.Context, socket string, number, workers int, duration time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var next, messages atomic.Int64
	var failures failureTally
	rounds := roundTally{streams: number, rounds: map[int]*round{}}
	var opened atomic.Bool
	var opening, holding sync.WaitGroup
	began := time.Now()
	for range workers {
		opening.Go(func() {
			for next.Add(1) <= int64(number) && ctx.Err() == nil {
				conn, stream, err := openStream(ctx, socket)
				if failures.add(err) {
					continue
				}
				messages.Add(1)
				holding.Go(func() {
					defer conn.Close()
					for message := 0; ; {
						_, err := stream.Recv()
						if err != nil {
							if ctx.Err() == nil {
								if errors.Is(err, io.EOF) {
									err = errors.New("stream ended")
								}
								failures.add(err)
							}
							return
						}
						messages.Add(1)
						if opened.Load() {
							message++
							rounds.add(message)
						}
					}
				})
			}
		})
	}
	opening.Wait()
	opened.Store(true)
	line := object{"streams": number, "seconds": time.Since(began).Seconds(), "messages": messages.Load()}
	failures.into(line)
	print("open", line)
	pause(ctx, duration)
	line = object{"streams": number, "messages": messages.Load()}
	failures.into(line)
	print("held", line)
	cancel()
	holding.Wait()
	return nil
}

// roundTally tells when all streams have got their next message: the first after all are open, and so on.
type roundTally struct {
	sync.Mutex
	streams int
	rounds  map[int]*round
}

type round struct {
	count int
	first time.Time
}

func (t *roundTally) add(message int) {
	now := time.Now()
	t.Lock()
	defer t.Unlock()
	current := t.rounds[message]
	if current == nil {
		current = &round{first: now}
		t.rounds[message] = current
	}
	if current.count++; current.count == t.streams {
		spread := float64(now.Sub(current.first).Microseconds()) / 1000
		print("round", object{"round": message, "streams": t.streams, "spread": spread})
	}
}

func openStream(
	ctx context.Context, socket string,
) (*grpc.ClientConn, grpc.ServerStreamingClient[workload.X509SVIDResponse], error) {
	conn, err := dial(socket)
	if err != nil {
		return nil, nil, err
	}
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, stream, nil
}

// churn connects and closes as fast as it can.
func churn(ctx context.Context, socket string, workers int, duration time.Duration, calling bool) error {
	ctx, cancel := lasting(ctx, duration)
	defer cancel()
	var connections atomic.Int64
	var failures failureTally
	var running sync.WaitGroup
	began := time.Now()
	for range workers {
		running.Go(func() {
			for ctx.Err() == nil {
				if err := touch(ctx, socket, calling); ctx.Err() == nil && !failures.add(err) {
					connections.Add(1)
				}
			}
		})
	}
	running.Wait()
	line := object{"mode": "churn", "workers": workers, "connections": connections.Load(), "seconds": time.Since(began).Seconds()}
	failures.into(line)
	print("load", line)
	return nil
}

func touch(ctx context.Context, socket string, calling bool) error {
	if calling {
		conn, err := dial(socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		return firstMessage(ctx, conn)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(strings.TrimPrefix(socket, "unix:"), "//"))
	if err != nil {
		return err
	}
	return conn.Close()
}
