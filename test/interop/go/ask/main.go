// Command ask makes one FetchX509SVID call and exits with 0 on the first message. It speaks just enough HTTP/2 itself, so
// that what a bench starts by the hundred costs little beside what the agent does for it.
package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"time"
)

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameData     = 0
	frameHeaders  = 1
	frameSettings = 4
	frameGoAway   = 7

	endStream  = 1
	endHeaders = 4
)

func main() {
	if len(os.Args) != 2 {
		os.Exit(2)
	}
	if err := ask(os.Args[1]); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func ask(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err = conn.Write(request()); err != nil {
		return err
	}
	header := make([]byte, 9)
	for {
		if _, err = io.ReadFull(conn, header); err != nil {
			return err
		}
		length := int64(header[0])<<16 | int64(header[1])<<8 | int64(header[2])
		kind, flags := header[3], header[4]
		if _, err = io.CopyN(io.Discard, conn, length); err != nil {
			return err
		}
		switch {
		case kind == frameData && length > 5:
			return nil
		case kind == frameHeaders && flags&endStream != 0, kind == frameGoAway:
			return io.ErrUnexpectedEOF
		}
	}
}

func request() []byte {
	var fields bytes.Buffer
	// Indices 3 and 6 of HPACK's static table: POST, http.
	fields.Write([]byte{0x83, 0x86})
	for _, field := range [][2]string{
		{":path", "/SpiffeWorkloadAPI/FetchX509SVID"},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
		{"workload.spiffe.io", "true"},
	} {
		fields.WriteByte(0)
		for _, text := range field {
			fields.WriteByte(byte(len(text)))
			fields.WriteString(text)
		}
	}
	var all bytes.Buffer
	all.WriteString(preface)
	frame(&all, frameSettings, 0, 0, nil)
	frame(&all, frameHeaders, endHeaders, 1, fields.Bytes())
	frame(&all, frameData, endStream, 1, make([]byte, 5))
	return all.Bytes()
}

func frame(to *bytes.Buffer, kind, flags byte, stream uint32, body []byte) {
	to.Write([]byte{byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body)), kind, flags})
	_ = binary.Write(to, binary.BigEndian, stream)
	to.Write(body)
}
