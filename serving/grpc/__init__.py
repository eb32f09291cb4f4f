"""V2 over gRPC. Named as the library is: rooms here import that one by its absolute name, `import grpc`."""
