package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	v1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// reflectServices asks what is served, and builds usable descriptors from the answers, as grpcurl does.
func reflectServices(ctx context.Context, args []string) error {
	flags := newWorkloadFlags("reflect")
	alpha := flags.Bool("v1alpha", false, "ask by the older version")
	_ = flags.Parse(args)
	ctx, cancel := flags.bounded(ctx)
	defer cancel()
	conn, err := dial(*flags.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	ask, err := openReflection(ctx, conn, *alpha)
	if err != nil {
		return err
	}

	listed, err := ask(&v1.ServerReflectionRequest{
		MessageRequest: &v1.ServerReflectionRequest_ListServices{ListServices: "*"},
	})
	if err != nil {
		return err
	}
	files := map[string]*descriptorpb.FileDescriptorProto{}
	services := object{}
	for _, service := range listed.GetListServicesResponse().GetService() {
		if err := collect(ask, service.GetName(), files); err != nil {
			return fmt.Errorf("%s: %w", service.GetName(), err)
		}
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, file := range files {
		set.File = append(set.File, file)
	}
	registry, err := protodesc.NewFiles(set)
	if err != nil {
		return err
	}
	for _, service := range listed.GetListServicesResponse().GetService() {
		found, err := registry.FindDescriptorByName(protoreflect.FullName(service.GetName()))
		if err != nil {
			return err
		}
		methods := []string{}
		for n := range found.(protoreflect.ServiceDescriptor).Methods().Len() {
			methods = append(methods, string(found.(protoreflect.ServiceDescriptor).Methods().Get(n).Name()))
		}
		services[service.GetName()] = methods
	}
	unknown, err := ask(&v1.ServerReflectionRequest{
		MessageRequest: &v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "no.Such"},
	})
	if err != nil {
		return err
	}
	print("services", object{"services": services, "files": len(files), "unknownCode": unknown.GetErrorResponse().GetErrorCode()})
	return nil
}

type asker func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error)

// openReflection speaks either version; they differ in nothing but the package.
func openReflection(ctx context.Context, conn *grpc.ClientConn, alpha bool) (asker, error) {
	if !alpha {
		stream, err := v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		return func(request *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
			if err := stream.Send(request); err != nil {
				return nil, err
			}
			return stream.Recv()
		}, err
	}
	stream, err := v1alpha.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	return func(request *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
		older, newer := &v1alpha.ServerReflectionRequest{}, &v1.ServerReflectionResponse{}
		if err := copyWire(request, older); err != nil {
			return nil, err
		}
		if err := stream.Send(older); err != nil {
			return nil, err
		}
		response, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		return newer, copyWire(response, newer)
	}, err
}

func copyWire(from, to proto.Message) error {
	bytes, err := proto.Marshal(from)
	if err != nil {
		return err
	}
	return proto.Unmarshal(bytes, to)
}

// collect fetches the file with the symbol, and by name whatever it imports that did not come along.
func collect(ask asker, symbol string, files map[string]*descriptorpb.FileDescriptorProto) error {
	response, err := ask(&v1.ServerReflectionRequest{
		MessageRequest: &v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol},
	})
	for err == nil {
		if refusal := response.GetErrorResponse(); refusal != nil {
			return fmt.Errorf("refused: %s", protojson.Format(refusal))
		}
		for _, bytes := range response.GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(bytes, file); err != nil {
				return err
			}
			files[file.GetName()] = file
		}
		missing := missingImport(files)
		if missing == "" {
			return nil
		}
		response, err = ask(&v1.ServerReflectionRequest{
			MessageRequest: &v1.ServerReflectionRequest_FileByFilename{FileByFilename: missing},
		})
	}
	return err
}

func missingImport(files map[string]*descriptorpb.FileDescriptorProto) string {
	for _, file := range files {
		for _, name := range file.GetDependency() {
			if files[name] == nil {
				return name
			}
		}
	}
	return ""
}
