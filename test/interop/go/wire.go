package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// The server's messages, written by hand: the few fields a load needs, by number.

// rawCodec lets calls send and receive bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(message any) ([]byte, error) {
	bytes, ok := message.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("cannot marshal %T", message)
	}
	return *bytes, nil
}

func (rawCodec) Unmarshal(data []byte, message any) error {
	bytes, ok := message.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot unmarshal %T", message)
	}
	*bytes = append([]byte{}, data...)
	return nil
}

func invoke(ctx context.Context, conn *grpc.ClientConn, method string, request []byte) ([]byte, error) {
	var response []byte
	err := conn.Invoke(ctx, method, &request, &response, grpc.ForceCodec(rawCodec{}))
	return response, err
}

// fieldOf appends a length-delimited field: bytes, a string or a message.
func fieldOf(message []byte, number protowire.Number, value []byte) []byte {
	message = protowire.AppendTag(message, number, protowire.BytesType)
	return protowire.AppendBytes(message, value)
}

// eachField hands over length-delimited fields as bytes, and varints as their value.
func eachField(message []byte, visit func(number protowire.Number, value []byte, varint uint64)) error {
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return protowire.ParseError(length)
		}
		message = message[length:]
		switch kind {
		case protowire.BytesType:
			value, length := protowire.ConsumeBytes(message)
			if length < 0 {
				return protowire.ParseError(length)
			}
			visit(number, value, 0)
			message = message[length:]
		case protowire.VarintType:
			value, length := protowire.ConsumeVarint(message)
			if length < 0 {
				return protowire.ParseError(length)
			}
			visit(number, nil, value)
			message = message[length:]
		default:
			length := protowire.ConsumeFieldValue(number, kind, message)
			if length < 0 {
				return protowire.ParseError(length)
			}
			message = message[length:]
		}
	}
	return nil
}

// fieldBytes is the last length-delimited field of that number, nil when there is none.
func fieldBytes(message []byte, number protowire.Number) (found []byte, err error) {
	err = eachField(message, func(n protowire.Number, value []byte, _ uint64) {
		if n == number {
			found = value
		}
	})
	return found, err
}

// fieldList is every length-delimited field of that number, in order.
func fieldList(message []byte, number protowire.Number) (found [][]byte, err error) {
	err = eachField(message, func(n protowire.Number, value []byte, _ uint64) {
		if n == number && value != nil {
			found = append(found, value)
		}
	})
	return found, err
}
