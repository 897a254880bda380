// Command interop drives a running agent or server with the libraries other people use: go-spiffe and grpc-go. Every
// command prints one JSON object a line and exits 0 when what it asked for was done; what the lines must say is left to
// the scenarios that run it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

type command func(ctx context.Context, args []string) error

var commands = map[string]command{
	"x509source":   x509Source,
	"jwtsource":    jwtSource,
	"wit":          witOnce,
	"witsource":    witSource,
	"bundles":      bundles,
	"watch":        watch,
	"validate":     validate,
	"mtls-server":  mtlsServer,
	"mtls-client":  mtlsClient,
	"load":         load,
	"pair":         pair,
	"spawn":        spawn,
	"spireload":    spireLoad,
	"broker":       brokerCommand,
	"contract":     contract,
	"fetch-bundle": fetchBundle,
	"serve-bundle": serveBundle,
	"delegate":     delegateCommand,
	"reflect":      reflectServices,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "usage: interop %v [flags]\n", slices.Sorted(maps.Keys(commands)))
		os.Exit(2)
	}
	if err := commands[os.Args[1]](ctx, os.Args[2:]); err != nil {
		printError("error", err)
		os.Exit(1)
	}
}

type object map[string]any

var printing sync.Mutex

func print(event string, fields object) {
	line := object{"event": event, "at": time.Now().UnixMilli()}
	maps.Copy(line, fields)
	printing.Lock()
	defer printing.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		os.Exit(3)
	}
}

func printError(event string, err error) {
	print(event, object{"error": err.Error(), "code": codeOf(err)})
}

// codeOf names the gRPC status somewhere in the chain, "" when there is none.
func codeOf(err error) string {
	var withStatus interface{ GRPCStatus() *status.Status }
	if errors.As(err, &withStatus) {
		return withStatus.GRPCStatus().Code().String()
	}
	return ""
}

// workloadFlags are shared by all commands that talk to an agent.
type workloadFlags struct {
	*flag.FlagSet
	socket *string
	within *time.Duration
}

func newWorkloadFlags(name string) workloadFlags {
	set := flag.NewFlagSet(name, flag.ExitOnError)
	return workloadFlags{
		FlagSet: set,
		socket:  set.String("socket", os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "address of the Workload API, unix:///..."),
		within:  set.Duration("within", 30*time.Second, "how long the first answer may take"),
	}
}

func (f workloadFlags) address() workloadapi.ClientOption {
	return workloadapi.WithAddr(*f.socket)
}

func (f workloadFlags) source() workloadapi.SourceOption {
	return workloadapi.WithClientOptions(f.address())
}

// bounded is the context for the first answer.
func (f workloadFlags) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, *f.within)
}

// lasting is a context that also ends after the duration, or only with its parent when that is 0.
func lasting(ctx context.Context, duration time.Duration) (context.Context, context.CancelFunc) {
	if duration <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, duration)
}
