package main

import (
	"context"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// contract prints the Workload API as go-spiffe has it: message, field, "number type".
func contract(context.Context, []string) error {
	file := workload.File_workload_proto
	messages := object{}
	for n := range file.Messages().Len() {
		message := file.Messages().Get(n)
		fields := object{}
		for m := range message.Fields().Len() {
			field := message.Fields().Get(m)
			fields[string(field.Name())] = fmt.Sprintf("%d %s", field.Number(), typeOf(field))
		}
		messages[string(message.Name())] = fields
	}
	methods := object{}
	service := file.Services().ByName("SpiffeWorkloadAPI").Methods()
	for n := range service.Len() {
		method := service.Get(n)
		methods[string(method.Name())] = object{
			"request": method.Input().Name(), "response": method.Output().Name(), "responseStream": method.IsStreamingServer(),
		}
	}
	print("contract", object{"messages": messages, "methods": methods})
	return nil
}

func typeOf(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return fmt.Sprintf("map<%s,%s>", typeOf(field.MapKey()), typeOf(field.MapValue()))
	case field.IsList():
		return "[]" + scalarOf(field)
	}
	return scalarOf(field)
}

func scalarOf(field protoreflect.FieldDescriptor) string {
	if field.Message() != nil {
		return string(field.Message().Name())
	}
	return field.Kind().String()
}
