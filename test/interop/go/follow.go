package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protowire"
)

const followMethod = "/steeple.node.v1.Node/Follow"

// traffic counts what crosses the sockets, TLS and HTTP/2 included, the headers of TCP and IP not.
type traffic struct {
	read, written atomic.Int64
}

type countedConn struct {
	net.Conn
	traffic *traffic
}

func (c countedConn) Read(bytes []byte) (int, error) {
	n, err := c.Conn.Read(bytes)
	c.traffic.read.Add(int64(n))
	return n, err
}

func (c countedConn) Write(bytes []byte) (int, error) {
	n, err := c.Conn.Write(bytes)
	c.traffic.written.Add(int64(n))
	return n, err
}

// followMany makes an agent of each token, follows as all of them, and counts what that costs while nothing happens.
func followMany(ctx context.Context, target loadTarget, tokens []string, workers int, settling, duration time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var next, ended atomic.Int64
	var failures failureTally
	var counted traffic
	var running sync.WaitGroup
	began := time.Now()
	for range workers {
		running.Go(func() {
			for n := next.Add(1); n <= int64(len(tokens)) && ctx.Err() == nil; n = next.Add(1) {
				failures.add(follow(ctx, target, tokens[n-1], &counted, &ended))
			}
		})
	}
	running.Wait()
	line := object{"agents": len(tokens), "seconds": time.Since(began).Seconds()}
	failures.into(line)
	print("following", line)
	pause(ctx, settling)
	print("settled", object{})
	read, written, started := counted.read.Load(), counted.written.Load(), time.Now()
	pause(ctx, duration)
	read, written = counted.read.Load()-read, counted.written.Load()-written
	line = object{"seconds": time.Since(started).Seconds(), "read": read, "written": written, "bytes": read + written}
	failures.into(line)
	line["failures"] = line["failures"].(int) + int(ended.Load())
	print("idle", line)
	return nil
}

// follow attests, opens the stream, waits for the end of the snapshot and goes on reading in the background. It confirms
// what it has got, as agents do.
func follow(ctx context.Context, target loadTarget, token string, counted *traffic, ended *atomic.Int64) error {
	svid, err := attest(ctx, target, token)
	if err != nil {
		return err
	}
	authorize := tlsconfig.AuthorizeID(spiffeid.RequireFromPath(target.bundle.TrustDomain(), "/spire/server"))
	security := credentials.NewTLS(tlsconfig.MTLSClientConfig(svid, target.bundle, authorize))
	conn, err := grpc.NewClient("passthrough:///"+target.address, grpc.WithTransportCredentials(security),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			return countedConn{conn, counted}, err
		}))
	if err != nil {
		return err
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, followMethod,
		grpc.ForceCodec(rawCodec{}))
	if err != nil {
		_ = conn.Close()
		return err
	}
	hello := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	hello = protowire.AppendVarint(protowire.AppendTag(hello, 2, protowire.VarintType), 2)
	request := fieldOf(nil, 1, hello)
	if err := stream.SendMsg(&request); err != nil {
		_ = conn.Close()
		return err
	}
	for done := false; !done; {
		if done, err = nextStep(stream); err != nil {
			_ = conn.Close()
			return err
		}
	}
	go func() {
		defer conn.Close()
		for {
			if _, err := nextStep(stream); err != nil {
				if ctx.Err() == nil {
					ended.Add(1)
				}
				return
			}
		}
	}()
	return nil
}

// nextStep reads a message, confirms the position it ends at, and tells whether a snapshot ended with it.
func nextStep(stream grpc.ClientStream) (bool, error) {
	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		return false, err
	}
	snapshot, err := fieldBytes(message, 2)
	if err != nil {
		return false, err
	}
	changes, err := fieldBytes(message, 3)
	if err != nil {
		return false, err
	}
	last, err := fieldBytes(snapshot, 4)
	if err != nil {
		return false, err
	}
	position := last
	if changes != nil {
		if position, err = fieldBytes(changes, 1); err != nil {
			return false, err
		}
	}
	if position == nil {
		return false, nil
	}
	confirm := fieldOf(nil, 2, fieldOf(nil, 1, position))
	return last != nil, stream.SendMsg(&confirm)
}
